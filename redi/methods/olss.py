"""OLSS: every state is a fitted combination of the first latents and all predictions so far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from redi.errors import unknown
from redi.lazy import Tensor, torch
from redi.methods.base import Say, register
from redi.methods.few.bases import Visit
from redi.methods.few.linear import inner_products, least_squares, residual
from redi.methods.few.method import FittedSolver
from redi.methods.few.placement import placement
from redi.methods.few.plan import Plan, solver_levels
from redi.methods.few.run import look, opening
from redi.methods.few.teacher import Teacher
from redi.samplers import Calls

STATES = ("exact", "visited")
_TRIALS = 64  # trajectories that a path is searched on
_HALVINGS = 30


@register
@dataclass
class OLSS(FittedSolver):
    """Optimal linear subspace search: `y' = w y_0 + sum_j W_j e_j` (Duan et al. 2023)."""

    name = "olss"
    title = "OLSS"
    #: "olss" searches the path; anything else is OLSS-P on those levels
    levels: str = "olss"
    #: exact: fitted on the teacher's states, as published; visited: on the student's own
    states: str = "exact"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.states not in STATES:
            raise unknown(f"states={self.states!r}", self.states, STATES)

    def fit_to(self, plan: Plan, teacher: Teacher, say: Say) -> Calls[dict[str, Tensor]]:
        first = teacher.first_call(plan)
        visits, y = opening(plan, first)
        found = {}
        for level in plan.asked:
            here, _ = yield from look(plan, level, y, first)
            visits.append(here)
            target = teacher.state(plan.steps[level + 1])
            weights = least_squares(_basis(visits), target)
            found[f"{level}.weights"] = weights
            y = _combined(weights, visits) if self.states == "visited" else target
        return found

    def step(self, level: int, visits: Sequence[Visit], partitions: Sequence[int]) -> Tensor:
        return _combined(self.fit.tensors[f"{level}.weights"], visits)


def _basis(visits: Sequence[Visit]) -> list[Tensor]:
    return [visits[0].y, *(visit.noise for visit in visits)]


def _combined(weights: Tensor, visits: Sequence[Visit]) -> Tensor:
    start = torch.zeros_like(visits[0].y)
    return sum((w * x for w, x in zip(weights, _basis(visits), strict=True)), start)


@placement("olss", _TRIALS)
def path_search(teacher: Teacher, strides: int) -> Calls[Sequence[int]]:
    """The levels that OLSS reaches with the least error that is allowed to every step.

    From each level the walk goes to the furthest one whose state the predictions so far span up to
    a tolerance; the tolerance is halved into the smallest with which so many strides suffice.
    """
    states, noises = yield from teacher.path()
    last = len(noises)
    products = inner_products([states[0], *noises, *states[1:]]).cpu()
    alpha = solver_levels(teacher.setup.sampler).alpha

    def lost(taken: Sequence[int], to: int) -> float:
        """Mean square error of the latents at a level from the predictions at those taken."""
        left = residual(products, [0, *(1 + step for step in taken)], last + to)
        return left * float(alpha[to]) ** 2

    def walk(tolerance: float) -> list[int]:
        taken = [0]
        while taken[-1] < last and len(taken) <= strides + 1:
            near, far = taken[-1] + 1, last
            while near < far:  # the furthest level within the tolerance, by halving
                middle = (near + far + 1) // 2
                if lost(taken, middle) <= tolerance:
                    near = middle
                else:
                    far = middle - 1
            taken.append(near)
        return taken

    best, low, high = [0, last], 0.0, lost([0], last)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        found = walk(middle)
        if found[-1] == last and len(found) <= strides + 1:
            best, high = found, middle
        else:
            low = middle
    while len(best) < strides + 1:  # no tolerance needs exactly so many
        gaps = [b - a for a, b in zip(best, best[1:], strict=False)]
        longest = gaps.index(max(gaps))
        best.insert(longest + 1, best[longest] + gaps[longest] // 2)
    return best
