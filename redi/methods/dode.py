"""D-ODE: one scalar per step changes the denoised output of a plain solver."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from redi.errors import unknown
from redi.lazy import Tensor, torch
from redi.methods.base import Say, register
from redi.methods.few.bases import BASES, Visit, base_step
from redi.methods.few.method import FittedSolver
from redi.methods.few.plan import Plan
from redi.methods.few.run import look, opening
from redi.methods.few.teacher import Teacher
from redi.samplers import Calls


@register
@dataclass
class DODE(FittedSolver):
    """Distilled ODE solver: `D + lambda (D - previous D)` for `D` in a base (Kim et al. 2024).

    At the first level the state stands for the output before it. Each lambda is one least-squares
    scalar on the student's own states.
    """

    name = "dode"
    title = "D-ODE"
    #: a name of `redi.methods.few.bases.BASES`
    base: str = "ddim"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.base not in BASES:
            raise unknown(f"base={self.base!r}", self.base, BASES)

    def fit_to(self, plan: Plan, teacher: Teacher, say: Say) -> Calls[dict[str, Tensor]]:
        first = teacher.first_call(plan)
        visits, y = opening(plan, first)
        chosen = torch.zeros(plan.calls, dtype=torch.float64, device=first.device)
        for number, level in enumerate(plan.asked):
            here, _ = yield from look(plan, level, y, first)
            visits.append(here)
            plain = self._step(plan, chosen, level, visits)
            trial = chosen.clone()
            trial[number] = 1.0
            slope = self._step(plan, trial, level, visits) - plain  # the step is linear in lambda
            wanted = teacher.state(plan.steps[level + 1]) - plain
            size = slope.square().sum()
            chosen[number] = (slope * wanted).sum() / size if float(size) > 0 else 0.0
            y = plain + chosen[number] * slope
        return {"lambda": chosen}

    def step(self, level: int, visits: Sequence[Visit], partitions: Sequence[int]) -> Tensor:
        return self._step(self.plan, self.fit.tensors["lambda"], level, visits)

    def _step(self, plan: Plan, scalars: Tensor, level: int, visits: Sequence[Visit]) -> Tensor:
        analytic = plan.asked.start
        told = list(visits[:analytic])
        for number, here in enumerate(visits[analytic:]):
            before = visits[analytic + number - 1].clean if analytic + number else here.y
            told.append(_moved(here, scalars[number], before))
        return base_step(plan, self.base, level, told)


def _moved(here: Visit, scalar: Tensor, before: Tensor) -> Visit:
    """The visit whose clean latents are `D + scalar (D - before)`."""
    return replace(here, noise=here.noise - scalar / here.rho * (here.clean - before))
