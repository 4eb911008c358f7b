"""Evaluation under a Lightning Trainer: all methods on the same queries and noises."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor, distributed
from torch.utils.data import DataLoader

from redi.config import Config
from redi.data.noise import NoisePolicy
from redi.data.numbers import Numbers
from redi.errors import UsageError
from redi.inference import (
    JUMPS,
    Outcome,
    Prefix,
    ReDi,
    Setting,
    Stopwatch,
    run_plain,
    step_group,
)
from redi.knowledge_base import KnowledgeBase
from redi.metrics.batch import BatchResult, Table
from redi.models.base import Conditioning
from redi.models.text_to_image import TextToImageModel
from redi.retrieval import open_search
from redi.samplers import Sampler, SamplerOptions
from redi.verbs.assemble import Prompts, model_from, noise_from, sampler_from
from redi.verbs.corrected import CorrectedMethods
from redi.verbs.reference import ReferenceRuns
from redi.verbs.rivals import Rival, rival

#: what puts the methods in proportion, and is none itself
REFERENCES = {
    "switch": "a full run with the query's early prompt until the key step",
    "content": "a full run with the query's early prompt alone",
    "other_noise": "a full run from another noise",
    "other_precision": "a full run in other_dtype",
}
METHODS: tuple[str, ...] = (
    "full",
    "redi",
    "plain",
    *(name for name in JUMPS if name != "redi"),
    *REFERENCES,
)


def equal_calls(config: Config, model: TextToImageModel, calls: int) -> Sampler:
    """The same sampler, evenly spread, with exactly `calls` network calls."""
    chosen = config.sampler
    options = SamplerOptions(chosen.timestep_spacing, chosen.order, chosen.use_karras_sigmas)
    found = Rival(chosen.name, chosen.name, options).with_calls(model.scheduler_config, calls)
    if found is None:
        raise UsageError(
            f"sampler={chosen.name} cannot run with {calls} network calls for the baseline "
            "'plain': raise kb.key_step or lower retrieval.value_step"
        )
    return found


def converged_sampler(config: Config, model: TextToImageModel) -> Sampler | None:
    """What stands for the exact solution: the strongest sampler, finely spread."""
    steps = config.metrics.converged_steps
    if steps is None:
        return None
    return rival("dpm_solver_pp", "trailing").sampler(model.scheduler_config, steps)


class Evaluate(LightningModule):
    """`test` over batches of query numbers; hooks read `result` and write `table`."""

    def __init__(
        self,
        config: Config,
        setting: Setting,
        queries: Prompts,
        kb_root: Path,
        shown: int,
        write: Callable[[Evaluate], None],
    ) -> None:
        super().__init__()
        self.config, self.setting, self.queries = config, setting, queries
        self.kb_root, self.shown, self.write = kb_root, shown, write
        self.model: TextToImageModel | None = None
        self.table = Table(repeats=config.data.repeats)
        self.pictures: dict[str, dict[int, Tensor]] = {}
        self.result: BatchResult

    def setup(self, stage: str) -> None:
        config = self.config
        if config.trainer.threads:
            torch.set_num_threads(config.trainer.threads)
        if self.model is None:
            self.model = model_from(
                config.model, config.sampling.guidance_scale, config.sampling.negative_prompt
            )
        self.sampler = sampler_from(config, self.model)
        self.noise: NoisePolicy = noise_from(config)
        kb = KnowledgeBase(self.kb_root, config.kb.size, config.kb.check_hashes)
        partitions = kb.noise_ids * (self.noise.policy == "bank")
        search = open_search(
            kb,
            step_group(self.setting.key_step),
            "latents",
            partitions,
            config.retrieval.index,
            config.retrieval.rebuild_index,
            rank_zero_only(print),
        )
        self.redi = ReDi(
            self.model, self.sampler, kb, partitions, self.setting, config.seed, search
        )
        k, v, n = self.setting.key_step, self.setting.value_step, self.sampler.num_steps
        calls = self.sampler.calls(0, k) + self.sampler.calls(v, n)
        self.plain = equal_calls(config, self.model, calls) if self.wants("plain") else None
        root = None if config.reference_root is None else Path(config.reference_root)
        self.reference = ReferenceRuns(root, self.model)
        self.corrected = CorrectedMethods(config, kb, self.model, self.reference)
        self.converged = converged_sampler(config, self.model)
        stored = kb.manifest.identity["stored_steps"]
        self.watched = tuple(s for s in stored if k < s < n) if root else (v,)
        if self.wants("other_precision"):
            sampling = config.sampling
            other = model_from(
                replace(config.model, dtype=config.other_dtype),
                sampling.guidance_scale,
                sampling.negative_prompt,
            )
            self.other = ReferenceRuns(root, other)

    def wants(self, method: str) -> bool:
        return method in ("full", "redi", *self.config.baselines)

    def on_test_start(self) -> None:
        """Warm up the networks, so that the first batch is timed like the others."""
        assert self.model is not None
        noise = self.noise.draw([0], self.model.latent_shape).to(self.model.device)
        short = sampler_from(self.config, self.model, max(2, self.sampler.min_steps))
        outcome = run_plain(self.model, short, self._encode([0]), noise)
        self.model.decode(outcome.latents)

    def test_step(self, batch: Tensor, batch_index: int) -> None:
        model, indices = self.model, batch.tolist()
        assert model is not None
        conditioning = self._encode(indices)
        ids = [self.noise.query_id(index) for index in indices]
        noise = self.noise.draw(ids, model.latent_shape).to(model.device)
        partitions = [self.noise.partition(i) for i in ids]
        value_step = self.setting.value_step
        run = self.reference.run
        outcomes: dict[str, Outcome] = {
            "full": run(self.sampler, conditioning, noise, self.watched)
        }
        early = self._encode(indices, self.queries.early) if self.queries.early else conditioning
        prefix = self.redi.start(early, noise, partitions, indices, conditioning)
        for method in METHODS:
            if method == "plain" and self.plain is not None:
                outcomes[method] = run(self.plain, conditioning, noise)
            elif method in JUMPS and self.wants(method):
                outcomes[method] = self.redi.finish(prefix, method)
        outcomes |= self.corrected.outcomes(conditioning, noise, partitions)
        outcomes |= self._references(indices, conditioning, early, prefix, noise)
        self.result = BatchResult(
            indices,
            list(conditioning.prompts),
            None if self.queries.scenes is None else [self.queries.scenes[i] for i in indices],
            outcomes,
            {name: self._decode(name, outcome).cpu() for name, outcome in outcomes.items()},
            value_step,
            None if self.converged is None else run(self.converged, conditioning, noise).latents,
        )
        for method, images in self.result.images.items():
            for index, image in zip(indices, images, strict=True):
                if index < self.shown:
                    self.pictures.setdefault(method, {})[index] = image

    def on_test_end(self) -> None:
        """Collect what the other processes measured; the first process writes the results."""
        if self.trainer.world_size > 1:
            gathered: list[Any] = [None] * self.trainer.world_size
            distributed.all_gather_object(gathered, (self.table.rows, self.pictures))
            for rows, pictures in gathered:
                self.table.merge(Table(rows))
                for method, images in pictures.items():
                    self.pictures.setdefault(method, {}).update(images)
        if self.trainer.is_global_zero:
            self.write(self)

    def _references(
        self,
        indices: list[int],
        conditioning: Conditioning,
        early: Conditioning,
        prefix: Prefix,
        noise: Tensor,
    ) -> dict[str, Outcome]:
        """Those of `REFERENCES` that are wanted."""
        model, found = self.model, {}
        assert model is not None
        if self.wants("switch"):
            watch = Stopwatch(model)
            state = self.sampler.finish(prefix.state, model.predictor(conditioning))
            found["switch"] = Outcome(state.latents, prefix.cost + watch.stop(len(indices)))
        if self.wants("content"):
            found["content"] = self.reference.run(self.sampler, early, noise)
        if self.wants("other_noise"):
            others = [self.noise.other_id(index) for index in indices]
            drawn = self.noise.draw(others, model.latent_shape).to(model.device)
            found["other_noise"] = self.reference.run(self.sampler, conditioning, drawn)
        if self.wants("other_precision"):
            encoded = self.other.model.encode(conditioning.prompts)
            outcome = self.other.run(self.sampler, encoded, noise)
            found["other_precision"] = replace(outcome, latents=outcome.latents.float())
        return found

    def _decode(self, method: str, outcome: Outcome) -> Tensor:
        model = self.other.model if method == "other_precision" else self.model
        assert model is not None
        return model.decode(outcome.latents)

    def _encode(self, indices: list[int], texts: list[str] | None = None) -> Conditioning:
        assert self.model is not None
        wanted = self.queries.texts if texts is None else texts
        return self.model.encode([wanted[index] for index in indices])


def query_loader(count: int, batch_size: int) -> DataLoader[Any]:
    """Query numbers in fixed batches: what a picture is made with does not depend on workers."""
    return DataLoader(Numbers(range(count)), batch_size=batch_size)
