"""Building the knowledge base under a Lightning Trainer: one shard is one item of work."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import LightningModule
from torch import Tensor
from torch.utils.data import DataLoader

from redi.config import Config
from redi.data.numbers import Numbers
from redi.errors import UsageError
from redi.files import LOCK, free_bytes, locked
from redi.knowledge_base import (
    Entry,
    KnowledgeBase,
    Manifest,
    Writer,
    all_shards,
    predicted_bytes,
)
from redi.knowledge_base.steps import step_group
from redi.methods import Query, Setup
from redi.methods.plain import Full
from redi.methods.redi import ReDi
from redi.methods.solve import solve
from redi.models.text_to_image import TextToImageModel
from redi.samplers import Sampler, StepRecord
from redi.verbs.assemble import (
    manifest_from,
    model_from,
    noise_from,
    prompts_from,
    sampler_from,
)
from redi.verbs.engine import progress_bar, trainer_from
from redi.verbs.named_kb import named_kb, on_hub
from redi.verbs.provenance import versions


def record_trajectories(
    model: TextToImageModel,
    sampler: Sampler,
    manifest: Manifest,
    prompts: list[str],
    noise: Tensor,
) -> dict[tuple[str, str], np.ndarray]:
    """Run the sampler on a batch and keep what the manifest asks for (ReDi, Algorithm 1)."""
    conditioning = model.encode(prompts)
    kept: dict[tuple[str, str], Tensor] = {("prompt", "embedding"): conditioning.embedding}
    wanted = {(column.group, column.name) for column in manifest.columns}

    def observe(record: StepRecord) -> None:
        group, state = step_group(record.state.step), record.state
        if (group, "latents") in wanted:
            kept[group, "latents"] = state.latents
        if (group, "prediction") in wanted:
            kept[group, "prediction"] = record.predictions[-1]
        if (group, "history") in wanted:
            kept[group, "history"] = torch.stack(state.history, 1)

    nobody = (0,) * len(prompts)
    query = Query(noise, nobody, nobody, observe=observe)
    solve(Full().bind(Setup(sampler)), query, model, conditioning)
    return {name: tensor.float().cpu().numpy() for name, tensor in kept.items()}


class BuildKnowledgeBase(LightningModule):
    """`predict` over shard numbers; each process writes its own shards.

    A shard's trajectories depend on its number alone, so any number of processes makes the same
    files.
    """

    def __init__(self, config: Config, manifest: Manifest, root: Path) -> None:
        super().__init__()
        self.config, self.manifest, self.root = config, manifest, root
        self.model: TextToImageModel | None = None

    def setup(self, stage: str) -> None:
        config = self.config
        if config.trainer.threads:
            torch.set_num_threads(config.trainer.threads)
        if self.model is None:
            self.model = model_from(
                config.model, config.sampling.guidance_scale, config.sampling.negative_prompt
            )
        self.sampler = sampler_from(config, self.model)
        self.noise = noise_from(config)
        self.writer = Writer(self.root, self.manifest, versions())

    def predict_step(self, batch: Tensor, batch_index: int) -> None:
        (shard,) = batch.tolist()
        size = self.manifest.shard_size
        indices = list(range(shard * size, (shard + 1) * size))
        texts = prompts_from(self.config.data, "kb", indices[-1] + 1).texts[indices[0] :]
        ids = [self.noise.kb_id(index) for index in indices]
        assert self.model is not None
        noise = self.noise.draw(ids, self.model.latent_shape).to(self.model.device)
        arrays = record_trajectories(self.model, self.sampler, self.manifest, texts, noise)
        entries = [Entry(*row) for row in zip(indices, texts, ids, strict=True)]
        self.writer.write(shard, arrays, entries)


def build(
    config: Config,
    setting: ReDi,
    model: TextToImageModel,
    say: Callable[[str], None],
    may_build: bool = True,
) -> KnowledgeBase:
    """Open the KB that the configuration asks for; make what is missing of it first.

    With `may_build` false a KB that is too small is refused.
    """
    if config.kb.first:
        raise UsageError(
            f"kb.first={config.kb.first} is for 'redi kb build' only: build the parts, "
            "'redi kb merge' them, and name the result with kb.dir"
        )
    sampler = sampler_from(config, model)
    sampler.check_jump(setting.steps_of(None, sampler.num_steps)[1], setting.resume)
    manifest = manifest_from(config, setting, model, sampler)
    root = kb_root(config, manifest)
    if may_build and not _is_subset(root) and not on_hub(config.kb):
        make(config, manifest, root, model, say)
    else:
        manifest.require_same(Manifest.read(root), root)
    return KnowledgeBase(root, config.kb.size, config.kb.check_hashes)


def make(
    config: Config,
    manifest: Manifest,
    root: Path,
    model: TextToImageModel,
    say: Callable[[str], None],
) -> None:
    """Make the trajectories `kb.first` to `kb.first + kb.size - 1` that `root` lacks."""
    writer = Writer(root, manifest, versions())
    if not writer.missing(config.kb.size, config.kb.first):
        return
    alone = config.trainer.devices * config.trainer.num_nodes == 1
    # points of a parallel sweep share a KB; the processes of one point share its shards instead
    with locked(root / LOCK) if alone else nullcontext():
        todo = writer.missing(config.kb.size, config.kb.first)  # another point may have made them
        if todo:
            _make(config, manifest, root, model, say, todo)


def _make(
    config: Config,
    manifest: Manifest,
    root: Path,
    model: TextToImageModel,
    say: Callable[[str], None],
    todo: list[int],
) -> None:
    rows = len(todo) * manifest.shard_size
    ready = sum(s not in todo for s in all_shards(root)) * manifest.shard_size
    say(
        f"Building {rows} trajectories in {root}"
        + (f", {ready} are there already" if ready else "")
        + f": {predicted_bytes(manifest, rows) / 1e6:.2f} MB to write, "
        f"{free_bytes(root) / 1e9:.1f} GB free"
    )
    task = BuildKnowledgeBase(config, manifest, root)
    trainer = trainer_from(config.trainer, [progress_bar("knowledge base")])
    if trainer.world_size == 1:
        task.model = model
    loader: DataLoader[Any] = DataLoader(Numbers(todo), batch_size=1)
    trainer.predict(task, loader, return_predictions=False)


def _is_subset(root: Path) -> bool:
    """A subset is complete as it is: nothing is built into it."""
    return (root / "manifest.json").is_file() and Manifest.read(root).origin is not None


def kb_root(config: Config, manifest: Manifest) -> Path:
    """The KB's folder: as configured, or named by its content."""
    named = named_kb(config.kb)
    if named is not None:
        return named
    return Path(config.kb.root) / f"{config.sampler.name}-{manifest.digest}"
