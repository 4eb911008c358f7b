"""What a fitted solver learns from: the states of a KB's trajectories at the levels of a plan."""

from __future__ import annotations

from dataclasses import dataclass

from redi.errors import UsageError
from redi.knowledge_base import KnowledgeBase
from redi.lazy import Tensor, torch
from redi.methods.base import Setup
from redi.methods.few.plan import Plan, solver_levels
from redi.methods.few.run import look
from redi.samplers import Calls


@dataclass(frozen=True)
class Teacher:
    """The first K trajectories of a KB. States are normalised, float64, on the device of `start`.

    The teacher is the KB's own sampler: `state(N)` is where its full runs end.
    """

    setup: Setup
    #: latents that the trajectories began with (K, C, H, W)
    start: Tensor

    def __len__(self) -> int:
        return len(self.start)

    @property
    def kb(self) -> KnowledgeBase:
        return self.setup.needs_kb("fit")

    def state(self, step: int) -> Tensor:
        """`y` (K, C, H, W) after so many updates of the reference sampler."""
        latents = self.start
        if step:
            stored = self.kb.latents(step, torch.arange(len(self)))
            latents = stored.reshape(self.start.shape).to(self.start.device)
        y = latents.double() / float(solver_levels(self.setup.sampler).alpha[step])
        bad = ~y.flatten(1).isfinite().all(1)
        if bool(bad.any()):
            raise UsageError(
                f"trajectory {int(bad.nonzero()[0])} of the KB is not finite after step {step}: "
                "leave it out ('redi kb subset')"
            )
        return y

    def path(self) -> Calls[tuple[list[Tensor], list[Tensor]]]:
        """`y` after 0 .. N updates, and what the network says at all but the last of them."""
        sampler = self.setup.sampler
        whole = Plan(sampler, tuple(range(sampler.num_steps + 1)))
        states = [self.state(step) for step in whole.steps]
        noises = []
        for level in whole.asked:
            visit, _ = yield from look(whole, level, states[level], self.start)
            noises.append(visit.noise)
        return states, noises

    def first(self, count: int) -> Teacher:
        """The same with fewer trajectories."""
        return Teacher(self.setup, self.start[:count])

    def first_call(self, plan: Plan) -> Tensor:
        """Latents (K, C, H, W) of a run's first call."""
        if not plan.analytic:
            return self.start
        return self.start * (plan.noise_scale / plan.sampler.noise_scale)
