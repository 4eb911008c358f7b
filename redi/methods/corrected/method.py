"""Retrieval-corrected sampling as methods: with a fixed number of calls, or as many as needed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from redi.errors import UsageError
from redi.lazy import Tensor, stats, torch
from redi.methods.base import Fitted, Query, Say, Setup, register
from redi.methods.corrected.adaptive import BudgetPolicy, fit_policy
from redi.methods.corrected.corrector import Correction
from redi.methods.corrected.fit import STANDARD, Recipe, fit_correction
from redi.methods.corrected.groups import groups_of, repeats
from redi.methods.corrected.levels import best_plan, refined
from redi.methods.corrected.store import (
    correction_path,
    load_correction,
    load_policy,
    policy_path,
    save_correction,
    save_policy,
)
from redi.methods.few.bases import Visit
from redi.methods.few.method import FewLevels, fit_columns
from redi.methods.few.placement import needed_steps, place
from redi.methods.few.plan import Plan
from redi.methods.few.run import look, primed, walk
from redi.methods.few.store import Cost, fitted_to
from redi.methods.few.teacher import Teacher
from redi.samplers import Calls, together

#: with fewer trajectories left-out errors were found to be too low
_ENOUGH = 100


@register
@dataclass
class Corrected(FewLevels, Fitted):
    """A few large steps, every one corrected by what the KB's trajectories lost over it."""

    name = "corrected"
    title = "retrieval-corrected"
    #: network calls
    calls: int = 5
    recipe: Recipe = STANDARD
    #: whether the first of calls + 1 steps is made without a call
    analytic: bool = False

    @property
    def plan(self) -> Plan:
        return self.correction.plan

    def path(self, setup: Setup) -> Path:
        kb = setup.needs_kb(self.name)
        return correction_path(kb.root, kb.content_hash, self.calls, self.recipe, self.analytic)

    def needed_steps(self, setup: Setup) -> list[int]:
        strides, levels = self.calls + self.analytic, self.recipe.levels
        read = {s for where in levels for s in needed_steps(setup.sampler, strides, where)}
        if self.recipe.refine is not None:
            read.update(range(1, setup.sampler.num_steps + 1))
        return sorted(read)

    def fitting(self, setup: Setup, start: Tensor, say: Say) -> Calls[None]:
        if start.dim() != 4:
            raise UsageError(
                "corrections are maps over pictures, and this pipeline's latents are tokens "
                f"{tuple(start.shape[1:])}: use another fitted method"
            )
        start = start.to(setup.device)
        plans, cost = list[Plan](), Cost()
        for where in self.recipe.levels:
            made, spent = yield from place(setup, start, self.calls, where, self.analytic, say)
            plans.append(made)
            cost.add(spent)
        count, trials = len(start), min(self.recipe.trials, len(start))
        if twins := repeats(_groups(setup, count)):
            say(
                f"{twins} of the {count} trajectories repeat the prompt and noise of another: they "
                "are left out together"
            )
        if len({found.steps for found in plans}) > 1:
            say(f"Placing {self.calls} calls: {len(plans)} alternatives on {trials} trajectories")
        recipe = self.recipe
        choosing = best_plan(plans, lambda p: self._fit(setup, p, start[:trials], recipe))
        chosen = yield from cost.of(choosing)
        if recipe.refine is not None:
            say(f"Moving {self.calls} calls on {trials} trajectories")
            quick = recipe.quick
            moving = refined(
                chosen, lambda p: self._fit(setup, p, start[:trials], quick), recipe.refine
            )
            chosen = yield from cost.of(moving)
        say(f"Fitting {self.calls} corrections to {count} trajectories")
        found = yield from cost.of(self._fit(setup, chosen, start, recipe))
        found = replace(found, cost=cost)
        save_correction(self.path(setup), found, fitted_to(setup.needs_kb(self.name)))

    def report(self, setup: Setup) -> Any:
        count = len(setup.needs_kb(self.name))
        if count >= _ENOUGH:
            return None
        return (
            f"{count} trajectories are few: the error that this fit forecasts may be too low (by "
            "up to 10% with 50 and 30% with 10, where it was measured); "
            f"redi.fit(calls={self.calls}) forecasts from whole runs"
        )

    def _fit(self, setup: Setup, chosen: Plan, start: Tensor, recipe: Recipe) -> Calls[Correction]:
        teacher, count = Teacher(setup, start), len(start)
        partitions = torch.from_numpy(teacher.kb.partitions[:count])
        return fit_correction(
            chosen,
            recipe,
            lambda level: teacher.state(chosen.steps[level]),
            partitions,
            teacher.first_call(chosen),
            _groups(setup, count),
        )

    def load(self) -> None:
        found = _loaded(self, self.setup)
        self.correction = found.to(self.setup.device)

    def step(self, level: int, visits: Sequence[Visit], partitions: Sequence[int]) -> Tensor:
        return self.correction.step(level, visits, partitions)

    def describe(self) -> dict[str, Any]:
        found = self.correction
        fields: dict[str, Any] = {
            **super().describe(),
            "steps": found.plan.strides,
            "kb_size": len(self.setup.needs_kb(self.name)),
            "estimator": found.base,
            "levels": list(found.plan.steps),
            "parts": [step.part for step in found.steps],
            **fit_columns(found.cost, found.numbers),
        }
        if found.predicted_error is not None:
            fields["predicted_latent_error"] = float(found.predicted_error.mean())
        return fields


@register
@dataclass
class Adaptive(Fitted):
    """Corrected sampling that gives each sample as many calls as its first call asks for.

    At most a share `risk` of the samples exceeds `tolerance`, the relative error of the final
    latents. A sample whose largest budget looks too bad gets full sampling.
    """

    name = "adaptive"
    title = "retrieval-corrected, as many calls as needed"
    budgets: tuple[int, ...] = (3, 5, 8)
    recipe: Recipe = STANDARD
    tolerance: float = 0.05
    risk: float = 0.1

    @property
    def falling(self) -> list[int]:
        return sorted(self.budgets, reverse=True)

    def each(self) -> list[Corrected]:
        """Corrected sampling with each budget, most calls first."""
        return [Corrected(calls, self.recipe) for calls in self.falling]

    def path(self, setup: Setup) -> Path:
        kb = setup.needs_kb(self.name)
        return policy_path(
            kb.root, kb.content_hash, self.falling, self.recipe, self.tolerance, self.risk
        )

    def needed_steps(self, setup: Setup) -> list[int]:
        return sorted({step for one in self.each() for step in one.needed_steps(setup)})

    def fitting(self, setup: Setup, start: Tensor, say: Say) -> Calls[None]:
        corrections = []
        for one in self.each():
            if not one.is_fitted(setup):
                yield from one.fitting(setup, start, say)
            corrections.append(_loaded(one, setup))
        say(f"Fitting the adaptive budget to {len(start)} trajectories")
        first = corrections[0]
        here, _ = yield from look(first.plan, 0, start.double() / first.plan.alpha[0], start)
        features = first.steps[0].features([here]).flatten(1)
        errors = [found.predicted_error for found in corrections]
        known = torch.stack([error for error in errors if error is not None], 1)
        groups = _groups(setup, len(start))
        policy = fit_policy(features, known, self.falling, self.tolerance, self.risk, groups)
        save_policy(self.path(setup), policy, fitted_to(setup.needs_kb(self.name)))

    def load(self) -> None:
        if not self.tolerance > 0 or not 0 < self.risk < 1:
            raise UsageError(
                f"tolerance={self.tolerance}, risk={self.risk}: give a positive error and a share "
                "above 0 and below 1"
            )
        of = fitted_to(self.setup.needs_kb(self.name))
        policy = load_policy(self.path(self.setup), of)
        self.policy: BudgetPolicy = policy.to(self.setup.device)
        self.corrections = {one.calls: one.bind(self.setup).correction for one in self.each()}

    def run(self, query: Query) -> Calls[Tensor]:
        start = query.start(self.sampler).latents
        first = self.corrections[self.policy.budgets[0]]
        y = start.double() / float(first.plan.alpha[0])
        here, answer = yield from look(first.plan, 0, y, start)
        with query.retrieving():
            wanted = self.policy.calls(first.steps[0].features([here]).flatten(1))
        parts = []
        for calls in dict.fromkeys(wanted):
            rows = torch.tensor([i for i, budget in enumerate(wanted) if budget == calls])
            run = self._part(query, rows, calls, start[rows])
            parts.append((rows, primed(run, answer.take(rows))))
        return (yield from together(parts, start))

    def _part(self, query: Query, rows: Tensor, calls: int | None, start: Tensor) -> Calls[Tensor]:
        if calls is None:
            state = query.start(self.sampler).take(rows)
            return (yield from self.sampler.run(state)).latents
        partitions = [query.partitions[i] for i in rows.tolist()]
        found = self.corrections[calls]

        def step(level: int, visits: Sequence[Visit]) -> Tensor:
            return found.step(level, visits, partitions)

        return (yield from walk(found.plan, step, query, start, _on_reference(found.plan)))

    def describe(self) -> dict[str, Any]:
        return {
            **super().describe(),
            "method": "corrected",
            "steps": self.policy.budgets[0],
            "kb_size": len(self.setup.needs_kb(self.name)),
            "estimator": f"adaptive to {self.policy.tolerance}",
        }

    def verdict(self, errors: np.ndarray) -> dict[str, Any]:
        beyond = int((errors > self.tolerance).sum())
        interval = stats.binomtest(beyond, len(errors)).proportion_ci(method="exact")
        return {
            "tolerance": self.tolerance,
            "risk": self.risk,
            "exceeded": beyond / len(errors),
            "exceeded_low": float(interval.low),
            "exceeded_high": float(interval.high),
            "fixed_calls": self.policy.fixed,
        }


def _loaded(method: Corrected, setup: Setup) -> Correction:
    of = fitted_to(setup.needs_kb(method.name))
    return load_correction(method.path(setup), setup.sampler, of)


def _groups(setup: Setup, count: int) -> Tensor:
    """Which of the KB's first trajectories (count,) repeat one another."""
    kb = setup.needs_kb("corrected")
    return groups_of(kb.prompts[:count], kb.noise_ids[:count].tolist())


def _on_reference(chosen: Plan) -> Callable[[int], int]:
    steps: Sequence[int] = chosen.steps
    return lambda level: steps[level]
