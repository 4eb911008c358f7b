"""GITS levels: how far one Euler jump leaves the teacher's trajectory, summed by the best path."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from redi.lazy import Tensor, torch
from redi.methods.few.placement import placement
from redi.methods.few.plan import solver_levels
from redi.methods.few.teacher import Teacher
from redi.samplers import Calls

_COEFFICIENT = 1.15  # later jumps weigh more (Chen et al. 2024, sec. 3.3)
_TRIALS = 64  # trajectories


@placement("gits", _TRIALS)
def gits(teacher: Teacher, strides: int) -> Calls[Sequence[int]]:
    """Levels of the least cost, by how much further a jump's end is from the chord.

    The cost of a jump is the difference in distance from the straight line between start and end
    of the trajectory, between the Euler jump's end and the teacher's state there.
    """
    states, noises = yield from teacher.path()
    start, chord = states[0], (states[-1] - states[0]).flatten(1)
    direction = chord / chord.norm(dim=1, keepdim=True)

    def distance(y: Tensor) -> Tensor:
        """From the chord (K,)."""
        offset = (y - start).flatten(1)
        return (offset - (offset * direction).sum(1, keepdim=True) * direction).norm(dim=1)

    own = [distance(y) for y in states]
    return _best(teacher, states, noises, strides, lambda y, j: (distance(y) - own[j]).abs())


@placement("gits_l2", _TRIALS)
def gits_l2(teacher: Teacher, strides: int) -> Calls[Sequence[int]]:
    """The same with a jump's cost by the distance of its end from the teacher's state."""
    states, noises = yield from teacher.path()
    return _best(
        teacher, states, noises, strides, lambda y, j: (y - states[j]).flatten(1).norm(dim=1)
    )


def _best(
    teacher: Teacher,
    states: Sequence[Tensor],
    noises: Sequence[Tensor],
    strides: int,
    deviation: Callable[[Tensor, int], Tensor],
) -> list[int]:
    rho, count = solver_levels(teacher.setup.sampler).rho.tolist(), len(states)
    cost = torch.full((count, count), torch.inf, dtype=torch.float64)
    for i, (y, noise) in enumerate(zip(states, noises, strict=False)):
        for j in range(i + 1, count):
            cost[i, j] = deviation(y + (rho[j] - rho[i]) * noise, j).mean()
    return best_path(cost, strides)


def best_path(cost: Tensor, strides: int, coefficient: float = _COEFFICIENT) -> list[int]:
    """The path of so many jumps from the first to the last level with the least cost.

    `V_1(i) = cost[i, N]`, `V_k(i) = min_j cost[i, j] + coefficient V_{k-1}(j)`.

    Args:
        cost: of a jump from i to j (N + 1, N + 1); infinite where there is none.
    """
    last = len(cost) - 1
    value, following = cost[:, last].clone(), list[Tensor]()
    for _ in range(strides - 1):
        value, chosen = (cost + coefficient * value).min(dim=1)
        following.append(chosen)
    path = [0]
    for chosen in reversed(following):
        path.append(int(chosen[path[-1]]))
    return [*path, last]
