"""Parts of the framework on the device: sampling, retrieval, training."""

from __future__ import annotations

import os
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from transformers import CLIPTokenizer

from experiments.gpu.terms import DEVICE, GPU, PROMPTS, Row, Size
from redi.data.noise import NoisePolicy
from redi.embedded.diffusion import TrainDiffusion
from redi.embedded.stage_config import StageConfig
from redi.embedded.stream import Painters
from redi.embedded.training import fit
from redi.methods import Query, Setup
from redi.methods.plain import Full
from redi.methods.solve import solve
from redi.models.text_to_image import TextToImageModel, load_pipeline
from redi.retrieval.indexed import IndexedSearch
from redi.retrieval.keys import ArrayKeys
from redi.retrieval.opening import build_index, finders_from
from redi.samplers import build_sampler
from redi.verbs.assemble import EMBEDDED_MODEL


def latents(size: Size, folder: Path) -> Row:
    """Final latents of full sampling by the embedded model, here and on the CPU."""
    found = []
    for device in (DEVICE, torch.device("cpu")):
        model = TextToImageModel(load_pipeline(EMBEDDED_MODEL, torch.float32, device), 7.5, "", 4)
        sampler = build_sampler("ddim", model.scheduler_config, 20, "trailing")
        noise = NoisePolicy().draw([0, 0, 0, 0], model.latent_shape).to(device)
        query = Query(noise, (0,) * 4, tuple(range(4)))
        method = Full().bind(Setup(sampler, device=device))
        found.append(solve(method, query, model, model.encode(PROMPTS)).latents.cpu())
    worst = float(
        ((found[0] - found[1]).flatten(1).norm(dim=1) / found[1].flatten(1).norm(dim=1)).max()
    )
    return Row(f"relative difference at most {worst:.1e} after 20 steps", "1e-2", worst <= 1e-2)


def retrieval(size: Size, folder: Path) -> Row:
    """Nearest of many keys through principal components, against every distance."""
    torch.manual_seed(0)
    factors = torch.randn(64, size.key_width, device=DEVICE)  # keys vary mostly in few directions
    array = np.empty((size.keys, size.key_width), dtype="f4")
    for first in range(0, size.keys, 10_000):
        count = min(10_000, size.keys - first)
        near = torch.randn(count, 64, device=DEVICE) @ factors
        near += 2 * torch.randn(count, size.key_width, device=DEVICE)
        array[first : first + count] = near.cpu().numpy()
    partitions, keys = np.zeros(size.keys, dtype=np.int64), ArrayKeys(array)
    queries = torch.from_numpy(array[:: size.keys // 64][:64])
    queries = queries + 0.5 * torch.randn_like(queries) * queries.std()
    start = time.perf_counter()
    search = IndexedSearch(
        keys, partitions, finders_from("pca", build_index(keys, partitions, "pca"))
    )
    built = time.perf_counter() - start
    search.search(queries[:1], [0], 1)
    spent = []
    for query in queries:
        start = time.perf_counter()
        search.search(query[None], [0], 1)
        spent.append(time.perf_counter() - start)
    found = search.search(queries, [0] * len(queries), 1).rows[:, 0]
    best = torch.full((len(queries),), torch.inf, dtype=torch.float64)
    exact, asked = torch.zeros(len(queries), dtype=torch.int64), queries.to(DEVICE).double()
    for first in range(0, size.keys, 4_000):
        block = torch.from_numpy(array[first : first + 4_000]).to(DEVICE).double()
        gap, row = torch.cdist(asked, block).min(1)
        nearer = gap.cpu() < best
        best[nearer], exact[nearer] = gap.cpu()[nearer], row.cpu()[nearer] + first
    right = int((found == exact).sum())
    return Row(
        f"{1000 * statistics.median(spent):.2f} ms a query, {right} of {len(queries)} nearest "
        f"found, built in {built:.1f} s",
        "all found",
        right == len(queries),
    )


def training(size: Size, folder: Path) -> Row:
    """Throughput of the embedded diffusion recipe, after its first steps."""
    config = StageConfig(size.train_steps, 64, 6e-4, 10, 10, 0.01, size.train_pool, 1, 10**6)
    vae = AutoencoderKL.from_pretrained(EMBEDDED_MODEL / "vae")
    tokenizer = CLIPTokenizer.from_pretrained(EMBEDDED_MODEL / "tokenizer")
    task = TrainDiffusion(config, 0, tokenizer, vae).to(DEVICE)
    torch.backends.cudnn.benchmark = GPU
    rates: list[float] = []
    with Painters(min(8, os.cpu_count() or 1) if GPU else 0) as task.painters:
        fit(task, _NoCheckpoints(), folder, GPU, lambda step, loss, rate: rates.append(rate))
    return Row(f"{rates[-1]:.0f} samples/s in the last steps, {rates[0]:.0f} in the first")


class _NoCheckpoints:
    """What `fit` needs of `Checkpoints`, without files."""

    def load(self, *_: Any) -> int:
        return 0

    def save(self, *_: Any) -> None:
        return
