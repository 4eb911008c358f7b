"""What a pipeline's calls are to do: run a method, keep trajectories, look at the network once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from redi.errors import UsageError
from redi.knowledge_base import KnowledgeBase
from redi.methods import Method, Query, Setup
from redi.models.identity import Identity, require_same, schedule_identity, stored_shape
from redi.pipeline.networks import Networks
from redi.pipeline.noise import noise_of, partitions_of
from redi.pipeline.stand_in import StandIn
from redi.pipeline.tally import Summary
from redi.samplers import Ask, Calls, Sampler


class UseMethod:
    """A method with the trajectories of a KB."""

    def __init__(self, method: Method, kb: KnowledgeBase | None, summary: Summary) -> None:
        self.method, self.kb, self.summary = method, kb, summary
        self.call, self._noises = Identity({}), list[int]()
        self._bound: Method | None = None
        self._for: Any = None

    @property
    def reference_steps(self) -> int | None:
        if not self.method.own_levels:
            return None
        return self.method.calls if self.kb is None else int(self.kb.manifest.identity["steps"])  # type: ignore[attr-defined]

    def describe(self, call: Identity, generator: Any) -> None:
        """Generators tell their noise while they are fresh, before the call draws from them."""
        self.call = call
        if self.kb is not None:
            given = len(generator) if isinstance(generator, (list, tuple)) else 1
            self._noises = noise_of(self.kb, generator, given)

    def prepare(self, sampler: Sampler) -> Method:
        schedule = schedule_identity(sampler)
        if self.kb is not None:
            require_same(self.kb, self.call | schedule)
        device = sampler.scheduler.timesteps.device
        if self._bound is None or self._for != (schedule.fields, device):
            config = dict(sampler.scheduler.config)
            self._bound = self.method.bind(Setup(sampler, config, self.kb, device=device))
            self._for = schedule.fields, device
        return self._bound

    def begin(self, sampler: Sampler, latents: Tensor) -> Query:
        assert self._bound is not None
        partitions = [0] * len(latents)
        if self.kb is not None:
            shape = list(stored_shape(latents))
            require_same(self.kb, self.call | Identity({"latent_shape": shape}))
            partitions = partitions_of(self.kb, self._noises, len(latents))
        return start_of(self._bound.noise_scale, latents, partitions)

    def finish(self, stand_in: StandIn, networks: Networks) -> None:
        if stand_in.query is None:
            return
        notes, samples = stand_in.query.notes, len(stand_in.query)
        hits = samples if notes.hits is None else int(notes.hits.sum())
        found = self.summary
        found.samples += samples
        found.hits += hits
        found.misses += samples - hits
        found.network_calls += stand_in.asked
        found.network_calls_saved += stand_in.full_calls * samples - stand_in.asked
        found.network_rows += networks.rows
        found.retrieval_seconds += notes.retrieval_seconds
        if notes.found is not None:
            found.distances += notes.found.distances[:, 0].tolist()


@dataclass
class Look(Method):
    """One network call at given latents, and nothing else."""

    name = "look"
    title = "one call"
    own_levels = True
    #: what to ask; None: the first call of a run
    ask: Ask | None = None

    @property
    def noise_scale(self) -> float:
        return super().noise_scale if self.ask is None else 1.0

    @property
    def first_divisor(self) -> Tensor | None:
        return super().first_divisor if self.ask is None else self.ask.divisor

    @property
    def timesteps(self) -> list[Tensor]:
        return super().timesteps[:1] if self.ask is None else [self.ask.timestep]

    def run(self, query: Query) -> Calls[Tensor]:
        assert query.begun is not None
        latents, timestep = query.begun[0], self.timesteps[0]
        if self.ask is not None and not torch.equal(latents, self.ask.latents.to(latents)):
            raise UsageError(
                "this pipeline changes the latents that it is given: nothing can be fitted to it"
            )
        self.asked = Ask(latents, timestep, 0, self.first_divisor, guidance=True)
        self.answer = yield self.asked
        return latents


def start_of(scale: float, latents: Tensor, partitions: list[int]) -> Query:
    """The query of a pipeline whose first latents (B, C, H, W) are noise times `scale`."""
    noise = latents / scale if scale != 1 else latents
    return Query(noise, tuple(partitions), tuple(range(len(latents))), begun=(latents, scale))
