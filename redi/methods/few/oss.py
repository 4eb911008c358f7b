"""OSS levels: the path on which a student's own Euler run stays nearest to the teacher."""

from __future__ import annotations

from collections.abc import Sequence

from redi.lazy import Tensor, torch
from redi.methods.few.placement import placement
from redi.methods.few.plan import Plan
from redi.methods.few.run import look
from redi.methods.few.teacher import Teacher
from redi.samplers import Calls

_TRIALS = 16  # trajectories; each asks for about N calls per stride


@placement("oss", _TRIALS)
def oss(teacher: Teacher, strides: int) -> Calls[Sequence[int]]:
    """Optimal stepsize search (Pei et al. 2025): dynamic programming on visited states.

    For every level and number of jumps the best student state is carried on: that of the
    predecessor from which the Euler jump ends nearest to the teacher's state.
    """
    sampler = teacher.setup.sampler
    whole = Plan(sampler, tuple(range(sampler.num_steps + 1)))
    rho, last = whole.rho.tolist(), sampler.num_steps
    truth = [teacher.state(step) for step in whole.steps]
    carried: dict[int, Tensor] = {0: truth[0]}
    came_from: list[dict[int, int]] = []
    for jump in range(1, strides + 1):
        reach = [last] if jump == strides else range(jump, last - strides + jump + 1)
        best = dict.fromkeys(reach, float("inf"))
        following: dict[int, Tensor] = {}
        origin: dict[int, int] = {}
        for level, y in carried.items():
            visit, _ = yield from look(whole, level, y, teacher.start)

            def ended(
                target: int, level: int = level, y: Tensor = y, e: Tensor = visit.noise
            ) -> Tensor:
                return y + (rho[target] - rho[level]) * e

            targets = [target for target in reach if target > level]
            off = torch.stack(
                [(ended(target) - truth[target]).square().mean() for target in targets]
            )
            for target, error in zip(targets, off.tolist(), strict=True):
                if error < best[target]:
                    best[target], origin[target] = error, level
                    following[target] = ended(target)
        carried = following
        came_from.append(origin)
    path = [last]
    for origin in reversed(came_from):
        path.append(origin[path[-1]])
    return path[::-1]
