"""DC-Solver: predictor-corrector whose stored predictions are moved in time (Zhao et al. 2024)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from redi.lazy import Tensor, torch
from redi.methods.base import Say, register
from redi.methods.few import FittedSolver, Plan, Teacher, Visit, look
from redi.methods.few.bases import corrector_shift, multistep
from redi.methods.few.run import opening
from redi.samplers import Calls

_FURTHEST = 2.0  # how far a ratio may lie from 1


@register
@dataclass
class DCSolver(FittedSolver):
    """UniPC-2 that keeps, in the place of every prediction, its interpolation in time.

    The prediction at a level, once it has corrected the state there, is replaced by the parabola
    through the last three at `ratio t_i + (1 - ratio) t_{i-1}` (dynamic compensation). There is one
    ratio for each level but the first two, where it is 1. They are chosen greedily on visited
    states, by the mean squared error of the next state that the network sees. That error is a
    quartic of the ratio, so its minimum is exact and needs no gradient.
    """

    name = "dc_solver"
    title = "DC-Solver"

    def fit_to(self, plan: Plan, teacher: Teacher, say: Say) -> Calls[dict[str, Tensor]]:
        visits, y = opening(plan, teacher.first_call(plan))
        ratios = [1.0] * plan.strides
        for level in plan.asked:
            here, _ = yield from look(plan, level, y, teacher.start)
            visits.append(here)
            target = teacher.state(plan.steps[level + 1])
            if level > 1:
                ratios[level] = best_ratio(plan, ratios, visits, target)
            y = compensated_step(plan, ratios, visits)
        return {"ratios": torch.tensor(ratios, dtype=torch.float64)}

    def take(self) -> None:
        self._ratios = self.fit.tensors["ratios"].tolist()

    def step(self, level: int, visits: Sequence[Visit], partitions: Sequence[int]) -> Tensor:
        return compensated_step(self.plan, self._ratios, visits)


def compensated_step(plan: Plan, ratios: Sequence[float], visits: Sequence[Visit]) -> Tensor:
    """The state (B, C, H, W) after the last of the visits, which begin at the first level."""
    level, kept = len(visits) - 1, compensated(plan, ratios, visits)
    y = visits[-1].y
    if level:  # the corrector takes the last prediction as it is, the predictor as it is kept
        y = y + corrector_shift([*kept[-3:-1], visits[-1]])
    rho, change = plan.target(level)
    used = kept[-1:] if level == plan.strides - 1 else kept[-2:]
    return multistep("unipc", used, rho, y) * change


def compensated(plan: Plan, ratios: Sequence[float], visits: Sequence[Visit]) -> list[Visit]:
    """The visits with the predictions that are kept."""
    kept: list[Visit] = []
    for level, (visit, ratio) in enumerate(zip(visits, ratios, strict=False)):
        kept.append(visit)
        if ratio != 1:
            clean = _interpolated(plan, level, ratio, kept)
            kept[-1] = replace(visit, noise=(visit.y - clean) / visit.rho)
    return kept


def _interpolated(plan: Plan, level: int, ratio: float, kept: Sequence[Visit]) -> Tensor:
    """The parabola through the last three predictions, in the timesteps that they were told."""
    oldest, old, new = (visit.clean for visit in kept[-3:])
    far, near, here = (float(plan.timestep(i)) for i in range(level - 2, level + 1))
    step = (1 - ratio) * (near - here)
    slope = (new - old) / (here - near)
    bend = (slope - (old - oldest) / (near - far)) / (here - far)
    return new + step * slope + step * (step + here - near) * bend


def best_ratio(
    plan: Plan, ratios: Sequence[float], visits: Sequence[Visit], target: Tensor
) -> float:
    """The ratio of the last visit's prediction that brings the next state nearest to `target`."""
    level = len(visits) - 1

    def off(ratio: float) -> Tensor:
        tried = [*ratios[:level], ratio]
        return compensated_step(plan, tried, visits) - target

    # off(1 + q) = here + q linear + q^2 quadratic
    here, less, more = off(1), off(0), off(2)
    linear, quadratic = (more - less) / 2, (more + less) / 2 - here
    squared = np.polynomial.Polynomial(
        [
            _dot(here, here),
            2 * _dot(here, linear),
            _dot(linear, linear) + 2 * _dot(here, quadratic),
            2 * _dot(linear, quadratic),
            _dot(quadratic, quadratic),
        ]
    )
    roots = squared.deriv().roots()
    places = np.clip(roots[np.isreal(roots)].real, -_FURTHEST, _FURTHEST)
    best = min((0.0, *places.tolist()), key=squared)
    return 1 + best


def _dot(one: Tensor, other: Tensor) -> float:
    return float((one * other).sum())
