"""Methods on few levels: the run that all share, and what a fitted one adds."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redi.lazy import Tensor
from redi.methods.base import Fitted, Method, Query, Say, Setup
from redi.methods.few.bases import Visit
from redi.methods.few.placement import check_levels, needed_steps, place
from redi.methods.few.plan import Plan
from redi.methods.few.run import walk
from redi.methods.few.store import Cost, Fit, fit_path, fitted_to, load_fit, save_fit
from redi.methods.few.teacher import Teacher
from redi.samplers import Calls


class OnLevels(Method):
    """A few calls from the noise on which the KB's sampler starts."""

    own_levels = True

    @property
    @abstractmethod
    def plan(self) -> Plan:
        """Where the levels lie, once the method is bound."""

    @property
    def noise_scale(self) -> float:
        return self.plan.noise_scale

    @property
    def first_divisor(self) -> Tensor | None:
        return self.plan.sampler.divisor(self.plan.steps[self.plan.asked.start], 0)

    @property
    def timesteps(self) -> list[Tensor]:
        return [self.plan.timestep(level) for level in self.plan.asked]


class FewLevels(OnLevels):
    """One call at each of a few levels of the KB's sampler, then one large step."""

    def run(self, query: Query) -> Calls[Tensor]:
        def step(level: int, visits: Sequence[Visit]) -> Tensor:
            return self.step(level, visits, query.partitions)

        return (yield from walk(self.plan, step, query, query.latents(self.noise_scale)))

    @abstractmethod
    def step(self, level: int, visits: Sequence[Visit], partitions: Sequence[int]) -> Tensor:
        """`y` (B, C, H, W) at level + 1 from the visits so far, oldest first.

        Args:
            partitions: part of the KB with each sample's noise.
        """


@dataclass
class FittedLevels(OnLevels, Fitted):
    """What is fitted on few levels: numbers, learned from the trajectories of a KB.

    A subclass fits named tensors (`fit_to`) and runs with them, once `take` made what runs use of
    `self.fit`. Levels, calls, cost and files are cared for here.
    """

    #: network calls
    calls: int = 5
    #: where they lie: even, karras, polyP, lateP, ays, or a placement that is fitted itself
    levels: str = "even"
    #: whether the first of calls + 1 steps is made without a call (AFS, Dockhorn et al. 2022)
    analytic: bool = False

    def __post_init__(self) -> None:
        """Refuse settings that do not exist, before any work."""
        check_levels(self.levels)

    @property
    def plan(self) -> Plan:
        return self.fit.plan

    @abstractmethod
    def fit_to(self, plan: Plan, teacher: Teacher, say: Say) -> Calls[dict[str, Tensor]]:
        """The method's numbers by name, float32 or float64, on any device."""

    def placing(self, setup: Setup, start: Tensor, say: Say) -> Calls[tuple[Plan, Cost]]:
        """The levels, and what they cost; methods that search them as they fit override it."""
        return (yield from place(setup, start, self.calls, self.levels, self.analytic, say))

    def path(self, setup: Setup) -> Path:
        kb = setup.needs_kb(self.name)
        return fit_path(kb.root, kb.content_hash, self.name, self.settings())

    def needed_steps(self, setup: Setup) -> list[int]:
        return needed_steps(setup.sampler, self.calls + self.analytic, self.levels)

    def fitting(self, setup: Setup, start: Tensor, say: Say) -> Calls[None]:
        start = start.to(setup.device)
        chosen, cost = yield from self.placing(setup, start, say)
        say(f"Fitting {self.title} with {self.calls} calls to {len(start)} trajectories")
        fitting = self.fit_to(chosen, Teacher(setup, start), say)
        tensors = yield from cost.of(fitting)
        save_fit(self.path(setup), Fit(chosen, tensors, cost), fitted_to(setup.needs_kb(self.name)))

    def load(self) -> None:
        kb = self.setup.needs_kb(self.name)
        found = load_fit(self.path(self.setup), self.setup.sampler, fitted_to(kb))
        self.fit = found.to(self.setup.device)
        self.take()

    def take(self) -> None:
        """Make of `self.fit` what runs use."""

    def describe(self) -> dict[str, Any]:
        return {
            **super().describe(),
            "steps": self.plan.strides,
            "kb_size": len(self.setup.needs_kb(self.name)),
            "levels": list(self.plan.steps),
            **fit_columns(self.fit.cost, self.fit.numbers),
        }


@dataclass
class FittedSolver(FewLevels, FittedLevels):
    """A solver on few levels whose steps have numbers that are fitted (`fit_to`, `step`)."""


def fit_columns(cost: Cost, numbers: int) -> dict[str, Any]:
    """What every fitted method says of its fit: network calls asked for, seconds in all, scalars
    that it keeps."""
    return {"fit_calls": cost.calls, "fit_seconds": cost.seconds, "fit_numbers": numbers}
