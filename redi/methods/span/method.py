"""The span solver as a method."""

from __future__ import annotations

from dataclasses import dataclass

from redi.errors import UsageError
from redi.lazy import Tensor, torch
from redi.methods.base import Query, Say, register
from redi.methods.corrected.groups import groups_of
from redi.methods.few import FittedLevels, Plan, Teacher
from redi.methods.span.fit import train
from redi.methods.span.levels import Between, levels_of
from redi.methods.span.solver import Parameters, SpanSolver
from redi.ranges import check_ranges, within
from redi.samplers import Calls


@register
@dataclass
class Span(FittedLevels):
    """Every scalar of a linear sampler and its times, trained end to end through the network.

    The upper bound of every method that shares scalars: the form of BNS and S4S, whose papers train
    it by gradients. Here each scalar's effect on the end is measured by runs, which asks for many
    network calls once.
    """

    name = "span"
    title = "span solver, trained end to end"
    end_to_end = True
    #: Gauss-Newton steps at most
    sweeps: int = within(6, 1)
    #: trajectories that they are computed from at most, and as many more that judge them
    trajectories: int = within(96, 1)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ranges(self)

    def fit_to(self, plan: Plan, teacher: Teacher, say: Say) -> Calls[dict[str, Tensor]]:
        seen, judges = self._halves(teacher)
        teacher = teacher.first(int(judges.max()) + 1)
        parameters = _parameters(plan)
        first, last = parameters.levels[0], parameters.levels[-1]
        start = teacher.first_call(plan)
        # the end is where the KB's own run stands, in the coordinates of the last level
        target = teacher.state(plan.steps[-1]) * (last.alpha / last.scale)
        found = yield from train(
            parameters, start.double() / first.scale, target, seen, judges, start, self.sweeps, say
        )
        return {"numbers": found.vector}

    def _halves(self, teacher: Teacher) -> tuple[int, Tensor]:
        """How many trajectories steps are computed from, and which judge them."""
        kb, count = teacher.kb, len(teacher)
        groups = groups_of(kb.prompts[:count], kb.noise_ids[:count].tolist())
        seen = max(1, min(count // 2, self.trajectories))
        judges = (~torch.isin(groups, groups[:seen])).nonzero()[: self.trajectories, 0]
        if not len(judges):
            raise UsageError(
                f"kb.size={count} holds too few different trajectories to train and to judge a "
                "span solver: use at least 2 different prompts or noises"
            )
        return seen, judges.to(teacher.start.device)

    def take(self) -> None:
        self._solver: SpanSolver = _parameters(self.plan).solver(self.fit.tensors["numbers"].cpu())

    @property
    def timesteps(self) -> list[Tensor]:
        return [level.timestep for level in self._solver.levels if level.timestep is not None]

    def run(self, query: Query) -> Calls[Tensor]:
        solver, like = self._solver, query.latents(self.noise_scale)
        z, _ = yield from solver.run(like.double() / solver.levels[0].scale, like)
        return (z * solver.levels[-1].scale).to(like)


def _parameters(plan: Plan) -> Parameters:
    return Parameters(Between(plan.sampler), levels_of(plan))
