"""Evaluation under a Lightning Trainer: all methods on the same queries and noises."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor, distributed
from torch.utils.data import DataLoader

from redi.config import Config
from redi.data.noise import NoisePolicy
from redi.data.stream import Numbers
from redi.errors import UsageError
from redi.inference import JUMPS, Outcome, ReDi, Setting, run_plain, step_group
from redi.knowledge_base import KnowledgeBase
from redi.models.text_to_image import TextToImageModel
from redi.retrieval import open_search
from redi.samplers import SAMPLERS, Sampler
from redi.tasks.assemble import Prompts, model_from, noise_from, sampler_from
from redi.tasks.corrected import CorrectedMethods
from redi.tasks.hooks import BatchResult, MetricHook, Table

METHODS: tuple[str, ...] = ("full", "redi", "plain", *(name for name in JUMPS if name != "redi"))


def equal_calls(config: Config, model: TextToImageModel, calls: int) -> Sampler:
    """The same sampler, evenly spread, with exactly `calls` network calls."""
    least = SAMPLERS[config.sampler.name].adapter.min_steps
    for steps in range(calls, least - 1, -1):
        sampler = sampler_from(config, model, steps)
        if sampler.calls(0, steps) == calls:
            return sampler
    raise UsageError(
        f"sampler={config.sampler.name} cannot run with {calls} network calls for the baseline "
        "'plain': raise kb.key_step or lower retrieval.value_step"
    )


class Evaluate(LightningModule):
    """`test` over batches of query numbers; hooks read `result` and write `table`."""

    def __init__(
        self,
        config: Config,
        setting: Setting,
        queries: Prompts,
        kb_root: Path,
        shown: int,
        write: Callable[[Evaluate, list[MetricHook]], None],
    ) -> None:
        super().__init__()
        self.config, self.setting, self.queries = config, setting, queries
        self.kb_root, self.shown, self.write = kb_root, shown, write
        self.model: TextToImageModel | None = None
        self.table = Table()
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
        self.corrected = CorrectedMethods(config, kb, self.model)

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
        outcomes: dict[str, Outcome] = {
            "full": run_plain(model, self.sampler, conditioning, noise, (value_step,))
        }
        prefix = self.redi.start(conditioning, noise, partitions, indices)
        for method in METHODS:
            if method == "plain" and self.plain is not None:
                outcomes[method] = run_plain(model, self.plain, conditioning, noise)
            elif method in JUMPS and self.wants(method):
                outcomes[method] = self.redi.finish(prefix, method)
        outcomes |= self.corrected.outcomes(conditioning, noise, partitions)
        self.result = BatchResult(
            indices,
            list(conditioning.prompts),
            None if self.queries.scenes is None else [self.queries.scenes[i] for i in indices],
            outcomes,
            {method: model.decode(outcome.latents).cpu() for method, outcome in outcomes.items()},
            value_step,
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
            callbacks = self.trainer.callbacks  # type: ignore[attr-defined]
            hooks = [hook for hook in callbacks if isinstance(hook, MetricHook)]
            self.write(self, hooks)

    def _encode(self, indices: list[int]) -> Any:
        assert self.model is not None
        return self.model.encode([self.queries.texts[index] for index in indices])


def query_loader(count: int, batch_size: int) -> DataLoader[Any]:
    """Query numbers in fixed batches: what a picture is made with does not depend on workers."""
    return DataLoader(Numbers(range(count)), batch_size=batch_size)
