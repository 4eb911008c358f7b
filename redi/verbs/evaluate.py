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
from redi.knowledge_base import KnowledgeBase
from redi.knowledge_base.steps import step_group
from redi.methods import Query, Setup
from redi.methods.memo import Memo
from redi.methods.plain import Converged, Full
from redi.methods.redi import ReDi
from redi.methods.solve import Outcome, solve
from redi.metrics.batch import BatchResult, Table
from redi.models.base import Conditioning
from redi.models.text_to_image import TextToImageModel
from redi.retrieval import open_search
from redi.verbs.assemble import Prompts, model_from, noise_from, sampler_from
from redi.verbs.entries import Entry, entries_of
from redi.verbs.reference import ReferenceRuns


class Evaluate(LightningModule):
    """`test` over batches of query numbers; hooks read `result` and write `table`."""

    def __init__(
        self,
        config: Config,
        setting: ReDi,
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
        self.noise: NoisePolicy = noise_from(config)
        self.kb = KnowledgeBase(self.kb_root, config.kb.size, config.kb.check_hashes)
        key, value = self.setting.key_step, self.setting.value_step
        assert key is not None and value is not None
        self.value_step = value
        search = open_search(
            self.kb,
            step_group(key),
            "latents",
            self.kb.partitions,
            config.retrieval.index,
            config.retrieval.rebuild_index,
            rank_zero_only(print),
        )
        setup = setup_of(config, self.model, self.kb)
        setup = replace(setup, search=search)
        self.methods: dict[str, Entry] = {
            entry.key: entry.bind(setup) for entry in entries_of(config, self.setting, setup)
        }
        root = None if config.reference_root is None else Path(config.reference_root)
        self.reference = ReferenceRuns(root, self.model)
        steps = config.metrics.converged_steps
        self.converged = None if steps is None else Converged(steps).bind(setup)
        if "other_precision" in config.baselines:
            sampling = config.sampling
            other = model_from(
                replace(config.model, dtype=config.other_dtype),
                sampling.guidance_scale,
                sampling.negative_prompt,
            )
            self.other = ReferenceRuns(root, other)

    @property
    def entries(self) -> dict[str, dict[str, Any]]:
        """Columns of each evaluated method, by its key in tables and pictures."""
        return {key: entry.describe() for key, entry in self.methods.items()}

    def on_test_start(self) -> None:
        """Warm up the networks, so that the first batch is timed like the others."""
        assert self.model is not None
        setup = self.methods["full"].method.setup
        least = max(2, setup.sampler.min_steps)
        short = Full().bind(replace(setup, sampler=sampler_from(self.config, self.model, least)))
        outcome = solve(short, self._query([0], self._encode([0])), self.model, self._encode([0]))
        self.model.decode(outcome.latents)

    def test_step(self, batch: Tensor, batch_index: int) -> None:
        model, indices = self.model, batch.tolist()
        assert model is not None
        said = self._encode(indices)
        early = self._encode(indices, self.queries.early) if self.queries.early else said
        query, memo = self._query(indices, early), Memo()
        outcomes = {
            entry.key: self._outcome(entry, query, said, early, memo)
            for entry in self.methods.values()
        }
        converged = None
        if self.converged is not None:
            converged = self.reference.run(self.converged, query, said).latents
        self.result = BatchResult(
            indices,
            list(said.prompts),
            None if self.queries.scenes is None else [self.queries.scenes[i] for i in indices],
            outcomes,
            {key: self._decode(key, outcome).cpu() for key, outcome in outcomes.items()},
            self.value_step,
            converged,
        )
        for key, images in self.result.images.items():
            for index, image in zip(indices, images, strict=True):
                if index < self.shown:
                    self.pictures.setdefault(key, {})[index] = image

    def _outcome(
        self, entry: Entry, query: Query, said: Conditioning, early: Conditioning, memo: Memo
    ) -> Outcome:
        """One method on one batch; what is compared with a run differs from it in one thing."""
        method, model = entry.method, self.model
        assert model is not None
        if entry.key == "content":
            return self.reference.run(Full().bind(method.setup), query, early)
        if entry.key == "other_noise":
            ids = [self.noise.other_id(index) for index in query.indices]
            drawn = self.noise.draw(ids, model.latent_shape).to(model.device)
            return self.reference.run(method, replace(query, noise=drawn), said)
        if entry.key == "other_precision":
            encoded = self.other.model.encode(said.prompts)
            outcome = self.other.run(method, query, encoded)
            return replace(outcome, latents=outcome.latents.float())
        if entry.shared:
            return self.reference.run(method, query, said, memo, (self.value_step,))
        return solve(method, query, model, said, early, memo)

    def on_test_end(self) -> None:
        """Collect what the other processes measured; the first process writes the results."""
        if self.trainer.world_size > 1:
            gathered: list[Any] = [None] * self.trainer.world_size
            distributed.all_gather_object(gathered, (self.table.rows, self.pictures))
            for rows, pictures in gathered:
                self.table.merge(Table(rows))
                for key, images in pictures.items():
                    self.pictures.setdefault(key, {}).update(images)
        if self.trainer.is_global_zero:
            self.write(self)

    def _decode(self, key: str, outcome: Outcome) -> Tensor:
        model = self.other.model if key == "other_precision" else self.model
        assert model is not None
        return model.decode(outcome.latents)

    def _query(self, indices: list[int], early: Conditioning) -> Query:
        assert self.model is not None
        ids = [self.noise.query_id(index) for index in indices]
        drawn = self.noise.draw(ids, self.model.latent_shape).to(self.model.device)
        partitions = tuple(self.noise.partition(i) for i in ids)
        return Query(drawn, partitions, tuple(indices), early.embedding)

    def _encode(self, indices: list[int], texts: list[str] | None = None) -> Conditioning:
        assert self.model is not None
        wanted = self.queries.texts if texts is None else texts
        return self.model.encode([wanted[index] for index in indices])


def setup_of(config: Config, model: TextToImageModel, kb: KnowledgeBase) -> Setup:
    """What the methods of a run are bound to."""
    return Setup(
        sampler_from(config, model), model.scheduler_config, kb, None, model.device, config.seed
    )


def query_loader(count: int, batch_size: int) -> DataLoader[Any]:
    """Query numbers in fixed batches: what a picture is made with does not depend on workers."""
    return DataLoader(Numbers(range(count)), batch_size=batch_size)
