"""Running methods on a model, as short as tests want it."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from redi.data.noise import NoisePolicy
from redi.methods import Fitted, Method, Query, Setup
from redi.methods.corrected import Corrected, Correction
from redi.methods.plain import Full
from redi.methods.solve import Outcome, solve
from redi.models.base import Conditioning, DiffusionModel
from redi.models.mixture import MixtureModel
from redi.samplers import Answer, Calls, Sampler, build_sampler


def run_plain(
    model: DiffusionModel,
    sampler: Sampler,
    conditioning: Conditioning,
    noise: Tensor,
    watch: Container[int] = (),
) -> Outcome:
    """All updates of a sampler."""
    count = len(noise)
    query = Query(noise, (0,) * count, tuple(range(count)))
    return solve(Full().bind(Setup(sampler)), query, model, conditioning, watch=watch)


def run_corrected(
    model: DiffusionModel,
    correction: Correction,
    conditioning: Conditioning,
    noise: Tensor,
    partitions: Sequence[int],
) -> Outcome:
    """Corrected sampling with corrections that are given."""
    method = Corrected(correction.plan.calls)
    method.setup, method.correction = Setup(correction.plan.sampler), correction
    query = Query(noise, tuple(partitions), tuple(range(len(noise))))
    return solve(method, query, model, conditioning)


def answered(
    calls: Calls[Correction], model: DiffusionModel, conditioning: Conditioning
) -> Correction:
    """The result of a fit whose calls are answered by a model, guidance difference included."""
    return answered_part(calls, model, conditioning.prompts)


@dataclass
class Recorded:
    """What fitted solvers read of a KB, kept in memory: the trajectories of a closed-form model."""

    root: Path
    prompts: list[str]
    states: dict[int, Tensor]
    content_hash: str = "0" * 64

    def __len__(self) -> int:
        return len(self.states[0])

    @property
    def manifest(self) -> Any:
        return SimpleNamespace(identity={"model_hash": "mixture"})

    @property
    def noise_ids(self) -> np.ndarray:
        return np.arange(len(self))

    @property
    def partitions(self) -> np.ndarray:
        return np.zeros(len(self), np.int64)

    def first(self, count: int) -> Recorded:
        if count >= len(self):
            return self
        states = {step: kept[:count] for step, kept in self.states.items()}
        name = f"{count:02}{self.content_hash[2:]}"
        return Recorded(self.root, self.prompts[:count], states, name)

    def latents(self, step: int, rows: Tensor) -> Tensor:
        return self.states[step][rows]


@dataclass
class Lab:
    """Trajectories of a model, and the same for queries that are not among them."""

    model: MixtureModel
    setup: Setup
    prompts: list[str]
    start: Tensor
    queries: list[str]
    noise: Tensor

    def run(self, method: Method) -> Outcome:
        """A bound method on the queries."""
        count = len(self.queries)
        query = Query(self.noise, (0,) * count, tuple(range(count)))
        return solve(method, query, self.model, self.model.encode(self.queries))

    def fitted(self, method: Method) -> Method:
        """The method fitted and bound."""
        if isinstance(method, Fitted) and not method.is_fitted(self.setup):
            calls = method.fitting(self.setup, self.start, lambda _: None)
            answered_part(calls, self.model, self.prompts)
        return method.bind(self.setup)

    def errors(self, method: Method) -> Tensor:
        """Relative errors (Q,) of a method's final latents to the full run's."""
        full = self.run(Full().bind(self.setup)).latents.double().flatten(1)
        mine = self.run(self.fitted(method)).latents.double().flatten(1)
        return (mine - full).norm(dim=1) / full.norm(dim=1)


def lab(root: Path, name: str = "ddim", steps: int = 20, count: int = 48) -> Lab:
    """A guided mixture, `count` trajectories of so many steps and 24 queries of other noises."""
    model = MixtureModel(components=10, spread=0.7, deviation=0.4)
    sampler = build_sampler(name, model.scheduler_config, steps, "trailing")
    texts = model.prompts(3)
    order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(0)).tolist()
    chosen = [texts[i] for i in order[: count + 24]]
    noise = NoisePolicy("per_prompt").draw(list(range(count + 24)), model.latent_shape)
    prompts, queries = chosen[:count], chosen[count:]
    whole = run_plain(model, sampler, model.encode(prompts), noise[:count], range(steps + 1))
    start = sampler.initial(noise[:count]).latents
    kb = Recorded(root, prompts, {0: start, **whole.watched})
    setup = Setup(sampler, model.scheduler_config, kb)  # type: ignore[arg-type]
    return Lab(model, setup, prompts, start, queries, noise[count:])


def answered_part(calls: Calls[Any], model: DiffusionModel, prompts: Sequence[str]) -> Any:
    """The result of a fit, each call answered for the first trajectories that it asks for."""
    try:
        ask = next(calls)
        while True:
            seen: list[Tensor] = []
            said = model.encode(list(prompts[: len(ask.latents)]))
            output = model.predictor(said, seen.append)(ask.input, ask.timestep)
            ask = calls.send(Answer(ask.latents, output, torch.cat(seen) if seen else None))
    except StopIteration as end:
        return end.value
