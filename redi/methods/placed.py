"""Plain solvers on levels that are placed: nothing but the levels is fitted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redi.errors import UsageError, unknown
from redi.lazy import Tensor
from redi.methods.base import Fitted, Say, Setup, register
from redi.methods.few.bases import BASES, Visit, base_step
from redi.methods.few.method import FewLevels, fit_columns
from redi.methods.few.placement import (
    check_levels,
    is_fitted_kind,
    levels_path,
    load_levels,
    needed_steps,
    place,
    plan,
)
from redi.methods.few.plan import Plan
from redi.ranges import check_ranges, within
from redi.samplers import Calls, Sampler, build_sampler


@register
@dataclass
class Placed(FewLevels, Fitted):
    """A plain solver on levels that a formula, a table or a search of the trajectories places."""

    name = "placed"
    title = "a plain sampler on given levels"
    #: network calls
    calls: int = 5
    #: a name of `redi.methods.few.bases.BASES`
    base: str = "ddim"
    #: a name of `redi.methods.few.placement`
    levels: str = "even"
    #: whether the first of calls + 1 steps is made without a call
    analytic: bool = False
    #: even steps of the run whose levels these are; None: the KB's, without a KB all there are
    grid: int | None = within(None, 1)

    def __post_init__(self) -> None:
        check_ranges(self)
        check_levels(self.levels)
        if self.grid is not None and is_fitted_kind(self.levels):
            raise UsageError(
                f"grid={self.grid} does nothing with levels={self.levels!r}, which are found on "
                "the KB's own trajectories: leave it out"
            )
        if self.base not in BASES:
            raise unknown(f"base={self.base!r}", self.base, BASES)

    @property
    def plan(self) -> Plan:
        return self._plan

    @property
    def sampler(self) -> Sampler:
        return self.plan.sampler

    def path(self, setup: Setup) -> Path:
        return levels_path(setup, self.calls, self.levels, self.analytic)

    def is_fitted(self, setup: Setup) -> bool:
        return not is_fitted_kind(self.levels) or super().is_fitted(setup)

    def needed_steps(self, setup: Setup) -> list[int]:
        if not is_fitted_kind(self.levels):
            return []
        return needed_steps(setup.sampler, self.calls + self.analytic, self.levels)

    def fitting(self, setup: Setup, start: Tensor, say: Say) -> Calls[None]:
        start = start.to(setup.device)
        yield from place(setup, start, self.calls, self.levels, self.analytic, say)

    def load(self) -> None:
        self._columns: dict[str, Any] = {}
        if is_fitted_kind(self.levels):
            fit = load_levels(self.setup, self.calls, self.levels, self.analytic)
            self._plan = fit.plan
            self._columns = fit_columns(fit.cost, len(fit.plan.steps))
        else:
            self._plan = plan(self._reference(), self.calls, self.levels, self.analytic)

    def _reference(self) -> Sampler:
        """The run whose levels are chosen from."""
        setup = self.setup
        if self.grid is None and setup.kb is not None:
            return setup.sampler
        known = int(setup.sampler.scheduler.config.num_train_timesteps)
        return build_sampler("ddim", setup.schedule, self.grid or known, "trailing")

    def step(self, level: int, visits: Sequence[Visit], partitions: Sequence[int]) -> Tensor:
        return base_step(self.plan, self.base, level, visits)

    def describe(self) -> dict[str, Any]:
        return {
            "method": "plain",
            "sampler": f"{self.base}:{self.levels}" + ":analytic" * self.analytic,
            "steps": self.plan.strides,
            **self._columns,
        }
