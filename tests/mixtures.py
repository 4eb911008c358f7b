"""A Gaussian mixture whose trajectories a solver is fitted to, and what it is worth elsewhere."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from redi.methods import Query, Setup
from redi.methods.few import FittedLevels, Plan, Teacher
from redi.methods.few.placement import plan
from redi.methods.few.store import Fit
from redi.models.mixture import MixtureModel
from redi.samplers import Answer, Ask, Calls, Sampler, build_sampler


class Trajectories:
    """What fits read of a KB, in memory."""

    def __init__(self, prompts: list[str], states: dict[int, Tensor]) -> None:
        self.prompts, self.states = prompts, states
        self.noise_ids = np.arange(len(prompts))
        self.partitions = np.zeros(len(prompts), np.int64)

    def __len__(self) -> int:
        return len(self.prompts)

    def latents(self, step: int, rows: Tensor) -> Tensor:
        return self.states[step][rows]


@dataclass
class Bench:
    """Some trajectories of one sampler on a mixture."""

    model: MixtureModel
    sampler: Sampler
    prompts: list[str]
    start: Tensor
    #: states after each step, from the first on
    states: dict[int, Tensor]
    asked: int = 0
    #: prompts that the network is asked about at a time: its rounding depends on it
    together: int | None = None

    @property
    def end(self) -> Tensor:
        return self.states[self.sampler.num_steps]

    @property
    def setup(self) -> Setup:
        known: Any = Trajectories(self.prompts, self.states)
        return Setup(self.sampler, self.model.scheduler_config, known)

    @property
    def teacher(self) -> Teacher:
        return Teacher(self.setup, self.start)

    def answered(self, calls: Calls[Any]) -> Any:
        """What a run or a fit returns; calls are for the first prompts."""
        try:
            ask = next(calls)
            while True:
                self.asked += len(ask.latents) if ask.rows is None else len(ask.rows)
                ask = calls.send(Answer(ask.latents, self._said(ask)))
        except StopIteration as end:
            return end.value

    def _said(self, ask: Ask) -> Tensor:
        rows = torch.arange(len(ask.latents)) if ask.rows is None else ask.rows
        said = torch.zeros_like(ask.latents)
        for part in rows.split(self.together or len(rows)):
            told = self.model.encode([self.prompts[i] for i in part.tolist()])
            said[part] = self.model.predictor(told)(ask.input[part], ask.timestep)
        return said

    def chosen(self, rows: Tensor) -> Bench:
        """Some trajectories alone."""
        states = {step: latents[rows] for step, latents in self.states.items()}
        prompts = [self.prompts[i] for i in rows.tolist()]
        return replace(self, prompts=prompts, start=self.start[rows], states=states)

    def plan(self, calls: int, levels: str = "even") -> Plan:
        return plan(self.sampler, calls, levels)

    def fitted(self, method: FittedLevels) -> FittedLevels:
        """The method with its numbers, which were not kept in a file."""
        chosen = self.plan(method.calls, method.levels)
        tensors = self.answered(method.fit_to(chosen, self.teacher, lambda _: None))
        return self.with_numbers(method, tensors)

    def with_numbers(self, method: FittedLevels, tensors: dict[str, Tensor]) -> FittedLevels:
        method.setup = self.setup
        method.fit = Fit(self.plan(method.calls, method.levels), tensors)
        method.take()
        return method

    def run(self, method: Any) -> Tensor:
        """Final latents of all prompts."""
        zeros = (0,) * len(self.prompts)
        noise = self.start / self.sampler.noise_scale
        return self.answered(method.run(Query(noise, zeros, tuple(range(len(zeros))))))

    def error(self, latents: Tensor) -> float:
        """Mean relative error to the trajectories' ends."""
        off = (latents - self.end).flatten(1).norm(dim=1)
        return float((off / self.end.flatten(1).norm(dim=1)).mean())


def bench(
    count: int = 32,
    seed: int = 0,
    guidance: float = 3.0,
    sampler: str = "ddim",
    steps: int = 40,
    most: int = 3,
) -> Bench:
    """Trajectories of some prompts of at most `most` components, from noises of their own."""
    model = MixtureModel(16, guidance, spread=0.6, deviation=0.3)
    reference = build_sampler(sampler, model.scheduler_config, steps)
    generator = torch.Generator().manual_seed(seed)
    known = model.prompts(most)
    prompts = [known[i] for i in torch.randperm(len(known), generator=generator)[:count]]
    noise = torch.randn(len(prompts), *model.latent_shape, generator=generator, dtype=torch.float64)
    begun = reference.initial(noise)
    predict = model.predictor(model.encode(prompts))
    states = {r.state.step: r.state.latents for r in reference.records(begun, predict)}
    return Bench(model, reference, prompts, begun.latents, states)
