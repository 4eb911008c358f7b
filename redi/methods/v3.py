"""DPM-Solver-v3: a multistep sampler in the variables that the model's statistics make flattest."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from redi.lazy import Tensor, torch
from redi.methods.base import Say, Setup, register
from redi.methods.few import FittedSolver, Plan, Teacher, Visit, look
from redi.methods.few.plan import solver_levels
from redi.ranges import check_ranges, within
from redi.samplers import Calls

_NUDGE = 0.01  # of the latents' own size, for the difference quotient of the network
_SMALL = 1e-6


@register
@dataclass
class DPMSolverV3(FittedSolver):
    """Statistics of the model where other samplers take `d` or `e` (Zheng et al. 2023).

    In `lambda = -log rho` the states obey `y' = -l y - f` with `f = rho e - l y`, whatever `l` is.
    `l` is the mean diagonal of `sigma de/dx`, which makes `f` depend least on the state; `f' = s f
    + b` holds as well as it can by least squares over trajectories. All are elementwise, at every
    level of the teacher. Both linear equations are solved exactly, and what is left of `f` is taken
    to be linear in `lambda` through the last two calls. With `l = 1`, `s = b = 0` it is
    DPM-Solver++ 2M.

    Where the paper asks for derivatives of the network, here are differences: of answers to
    latents that are moved by random signs (`probes` calls beside one at each level) and, for `f'`,
    of successive levels of a trajectory. The statistics are those of the guided model, whose
    equation is solved, and there is no corrector.
    """

    name = "dpm_solver_v3"
    title = "DPM-Solver-v3"
    #: trajectories that the statistics are taken of, at most
    trajectories: int = within(64, 2)
    #: random signs for each trajectory and level
    probes: int = within(1, 1)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ranges(self)

    def needed_steps(self, setup: Setup) -> list[int]:
        super().needed_steps(setup)  # refuses what cannot be fitted to
        return list(range(1, setup.sampler.num_steps + 1))

    def fit_to(self, plan: Plan, teacher: Teacher, say: Say) -> Calls[dict[str, Tensor]]:
        teacher = teacher.first(self.trajectories)
        sampler = plan.sampler
        whole = Plan(sampler, tuple(range(sampler.num_steps + 1)))
        states, noises = yield from teacher.path()
        generator = torch.Generator().manual_seed(0)
        slopes = []
        for level in whole.asked:
            rho, total = float(whole.rho[level]), torch.zeros_like(states[0])
            nudge = _NUDGE * (1 + rho**2) ** 0.5
            for _ in range(self.probes):
                signs = torch.randint(0, 2, states[0].shape, generator=generator) * 2.0 - 1
                signs = signs.to(states[0])
                moved = states[level] + nudge * signs
                there, _ = yield from look(whole, level, moved, teacher.start)
                total += signs * rho * (there.noise - noises[level]) / nudge
            slopes.append(total.mean(0) / self.probes)
        return statistics(whole.rho, states, noises, torch.stack(slopes))

    def take(self) -> None:
        known = Statistics(solver_levels(self.plan.sampler).rho, **self.fit.tensors)
        steps, last = self.plan.steps, self.plan.strides - 1
        self._rows = [
            known.row(steps[i - 1] if 0 < i < last else None, steps[i], steps[i + 1], rho)
            for i in range(self.plan.strides)
            for rho, _ in [self.plan.target(i)]
        ]

    def step(self, level: int, visits: Sequence[Visit], partitions: Sequence[int]) -> Tensor:
        _, change = self.plan.target(level)
        return self._rows[level](visits) * change


def statistics(
    rho: Tensor, states: Sequence[Tensor], noises: Sequence[Tensor], slope: Tensor
) -> dict[str, Tensor]:
    """`l` (N, C, H, W) at the levels of calls, `s` and `b` (N - 1, C, H, W) between them.

    Args:
        rho: levels (N + 1,).
        states: `y` of trajectories (K, C, H, W) at N or more levels; `noises`: `e` at N of them.
        slope: mean diagonal of `sigma de/dx` (N, C, H, W).
    """
    flat = [
        float(r) * e - own * y for r, e, own, y in zip(rho, noises, slope, states, strict=False)
    ]
    kept, shift = [], []
    for i in range(len(flat) - 1):
        change = (flat[i + 1] - flat[i]) / float((rho[i] / rho[i + 1]).log())
        middle = (flat[i + 1] + flat[i]) / 2
        off, mean = middle - middle.mean(0), change.mean(0)
        spread = off.square().sum(0)
        s = torch.where(spread > 0, (off * change).sum(0) / spread.clamp_min(1e-300), 0)
        kept.append(s)
        shift.append(mean - s * middle.mean(0))
    return {"l": slope, "s": torch.stack(kept), "b": torch.stack(shift)}


@dataclass(frozen=True)
class Row:
    """One update, `y' = decay y - weight g - shift`, all elementwise (C, H, W).

    `g` is `f` at the last visit, and half a step further along the line through the one before,
    whose `f` is brought here by `growth` and `gained` first.
    """

    decay: Tensor
    weight: Tensor
    shift: Tensor
    slope: Tensor  #                      `l` at the last visit
    #: `l` at the visit before, `growth`, `gained`, and that step's length over this one's
    before: tuple[Tensor, Tensor, Tensor, float] | None

    def __call__(self, visits: Sequence[Visit]) -> Tensor:
        flat = _flat(visits[-1], self.slope)
        if self.before is not None:
            slope, growth, gained, ratio = self.before
            flat = flat + (flat - growth * (_flat(visits[-2], slope) + gained)) / (2 * ratio)
        return self.decay * visits[-1].y - self.weight * flat - self.shift


@dataclass(frozen=True)
class Statistics:
    """What a model's trajectories are like, and the steps that follow from it."""

    rho: Tensor  #                        (N + 1,) float64
    l: Tensor  # noqa: E741               (N, C, H, W)
    s: Tensor  #                          (N - 1, C, H, W)
    b: Tensor  #                          (N - 1, C, H, W)

    def row(self, before: int | None, at: int, to: int, end: float) -> Row:
        """The update from the level `at` to the level `to`, whose `rho` is `end`."""
        decay, weight = torch.ones_like(self.l[0]), torch.zeros_like(self.l[0])
        shift, growth, gained = (torch.zeros_like(weight) for _ in range(3))
        for i in range(at, to):
            low = end if i == to - 1 else float(self.rho[i + 1])
            if i == len(self.s):  # nothing is known after the last call: `e` stays as it is
                share = 1 - low / float(self.rho[i])
                lost = 1 - share * self.l[i]
                part, more = share * growth.exp(), torch.zeros_like(gained)
            else:
                h = math.log(float(self.rho[i]) / low)
                slope = (self.l[i] + self.l[i + 1]) / 2
                lost = (-slope * h).exp()
                # the integral of e^(-l (h - t) + s t) from t = 0 to h
                part = lost * h * _mean_exp((slope + self.s[i]) * h) * growth.exp()
                more = (-growth).exp() * self.b[i] * h * _mean_exp(-self.s[i] * h)
                growth = growth + self.s[i] * h
            decay, weight = decay * lost, weight * lost + part
            shift = shift * lost + part * (gained + more / 2)
            gained = gained + more
        if before is None:
            return Row(decay, weight, shift, self.l[at], None)
        growth, gained = torch.zeros_like(growth), torch.zeros_like(gained)
        for i in range(before, at):
            h = math.log(float(self.rho[i] / self.rho[i + 1]))
            gained = gained + (-growth).exp() * self.b[i] * h * _mean_exp(-self.s[i] * h)
            growth = growth + self.s[i] * h
        ratio = math.log(float(self.rho[before] / self.rho[at]))
        ratio /= math.log(float(self.rho[at]) / end)
        return Row(decay, weight, shift, self.l[at], (self.l[before], growth.exp(), gained, ratio))


def _flat(visit: Visit, slope: Tensor) -> Tensor:
    """`f = rho e - l y` (B, C, H, W)."""
    return visit.rho * visit.noise - slope * visit.y


def _mean_exp(x: Tensor) -> Tensor:
    """Mean of `e^(x t)` for t from 0 to 1."""
    small = x.abs() < _SMALL
    return torch.where(small, 1 + x / 2, x.expm1() / x.where(~small, torch.ones_like(x)))
