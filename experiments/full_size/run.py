"""The full-size Stable Diffusion 1.5 architecture with random weights: memory and shapes.

    python experiments/full_size/run.py [--steps 4] [--side 512] [--dtype float32]

builds UNet (860 M parameters), CLIP ViT-L text encoder and VAE with the published dimensions,
records a trajectory of a square picture on the CPU with guidance 7.5, re-inserts it, jumps along it
with another prompt through `redi.enable` and in the framework's own loop, decodes, and prints
sizes, seconds, the differences of the two and the peak memory of the process.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

import redi
from redi.data.noise import NoisePolicy
from redi.methods import Query, Setup
from redi.methods.plain import Full
from redi.methods.redi import ReDi
from redi.methods.solve import solve
from redi.models.text_to_image import TextToImageModel
from redi.samplers import adapt
from redi.verbs.assemble import EMBEDDED_MODEL

GUIDANCE, KNOWN, ASKED = 7.5, "a red fox", "a blue car"


def build(dtype: torch.dtype) -> StableDiffusionPipeline:
    """Stable Diffusion 1.5 as published, but for its weights and its tokenizer's vocabulary."""
    torch.set_default_dtype(dtype)
    unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
    text = CLIPTextConfig(
        hidden_size=768,
        intermediate_size=3072,
        projection_dim=768,
        num_hidden_layers=12,
        num_attention_heads=12,
    )
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(128, 256, 512, 512),
        layers_per_block=2,
        latent_channels=4,
        sample_size=512,
    )
    encoder = CLIPTextModel(text)
    torch.set_default_dtype(torch.float32)
    scheduler = PNDMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        skip_prk_steps=True,
        steps_offset=1,
    )
    pipe = StableDiffusionPipeline(
        vae=vae.eval(),
        text_encoder=encoder.eval(),
        tokenizer=CLIPTokenizer.from_pretrained(EMBEDDED_MODEL / "tokenizer"),
        unet=unet.eval(),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def main() -> None:
    """Record, re-insert, jump twice, decode, report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=4, help="at least 4")
    parser.add_argument("--side", type=int, default=512, help="pixels")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="float32")
    options = parser.parse_args()
    torch.manual_seed(0)
    with timed("built"):
        pipe = build(getattr(torch, options.dtype))
    parameters = sum(p.numel() for p in pipe.unet.parameters())
    print(f"UNet: {parameters / 1e6:.1f} M parameters, {options.dtype}")
    last, key, value = options.steps, 1, options.steps - 1
    call: dict[str, Any] = {
        "num_inference_steps": last,
        "guidance_scale": GUIDANCE,
        "height": options.side,
        "width": options.side,
        "output_type": "latent",
    }
    model = TextToImageModel(pipe, GUIDANCE, batch_size=1)
    scheduler = deepcopy(pipe.scheduler)
    scheduler.set_timesteps(last)
    sampler = adapt(scheduler)
    with tempfile.TemporaryDirectory() as folder:
        stored: dict[str, Any] = {"key_step": key, "value_steps": [value, last]}
        with timed("recorded a trajectory", sampler.calls(0, last)):
            kb = redi.record(pipe, [KNOWN], f"{folder}/kb", store_history=True, **stored, **call)
        print(f"{kb.disk_bytes / len(kb) / 1e3:.0f} kB per trajectory")
        plain = kb.latents(last)
        print(f"latents {tuple(plain.shape)}")

        noise = NoisePolicy().draw([0], tuple(plain.shape[1:])).to(pipe.unet.dtype)
        with timed("own loop, full", sampler.calls(0, last)):
            query, setup = Query(noise, (0,), (0,)), Setup(sampler, kb=kb)
            full = solve(Full().bind(setup), query, model, model.encode([KNOWN])).latents
        print(f"  largest difference to the pipeline: {largest(full, plain)}")

        with redi.enable(pipe, kb, value_step=value, resume="retrieved"):
            with timed("redi.enable, its own trajectory", sampler.calls(0, key) + 1):
                again = pipe(KNOWN, generator=redi.generators(kb), **call).images
        print(f"  largest difference to the pipeline: {largest(again, plain)}")

        with redi.enable(pipe, kb, value_step=value):
            with timed("redi.enable, another prompt", sampler.calls(0, key) + 1):
                enabled = pipe(ASKED, generator=redi.generators(kb), **call).images
        print(redi.summary(pipe))
        method = ReDi(key, value).bind(setup)
        with timed("own loop, another prompt", sampler.calls(0, key) + 1):
            mine = solve(method, query, model, model.encode([ASKED])).latents
        print(f"  largest difference to redi.enable: {largest(mine, enabled)}")
        print(f"  (to the recorded trajectory: {largest(mine, plain):.3g})")

    with timed("decoded"):
        picture = model.decode(mine)
    print(f"picture {tuple(picture.shape)}, finite: {bool(picture.isfinite().all())}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"peak memory of the process: {peak:.1f} GB")


@contextmanager
def timed(what: str, calls: int | None = None) -> Iterator[None]:
    """Print the seconds of a block, and per network call where it makes some."""
    start = time.perf_counter()
    yield
    seconds = time.perf_counter() - start
    rate = "" if calls is None else f" ({calls} network calls, {seconds / calls:.1f} s each)"
    print(f"{what}: {seconds:.0f} s{rate}", flush=True)


def largest(a: Tensor, b: Tensor) -> float:
    return float((a.float() - b.float()).abs().max())


if __name__ == "__main__":
    main()
