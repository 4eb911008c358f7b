"""Single-step DPM-Solver: groups of up to three updates from one starting point."""

from __future__ import annotations

from functools import cached_property

from redi.lazy import Tensor
from redi.samplers.base import Sampler, sigma_levels
from redi.samplers.state import Levels, SamplerState


class DPMSolverSingleStep(Sampler):
    """`DPMSolverSinglestepScheduler`, one network call per update.

    Updates come in groups of orders 1, 2, (3); each starts again from the group's first latents
    with the outputs of the group so far. Those are the history inside a group, the latents last.
    Between groups nothing is carried, so that is where a jump may land without history.
    """

    name = "dpm_solver_single"

    @cached_property
    def levels(self) -> Levels:
        return sigma_levels(self.scheduler)

    @property
    def history_size(self) -> int:
        return self.scheduler.config.solver_order

    def history_after(self, step: int) -> int:
        inside = step < self.num_steps and self.scheduler.order_list[step] > 1
        return self.scheduler.order_list[step] if inside else 0

    def history_steps(self, step: int) -> tuple[int | None, ...]:
        carried = self.history_after(step)
        return (*(None,) * (carried - 1), step - carried + 1) if carried else ()

    def can_resume(self, step: int, policy: str) -> bool:
        return super().can_resume(step, policy) and (
            policy == "retrieved" or self.history_after(step) == 0
        )

    def restore(self, state: SamplerState) -> None:
        scheduler, outputs = self.scheduler, state.history[:-1]
        missing = scheduler.config.solver_order - len(outputs)
        scheduler.model_outputs = [None] * missing + list(outputs)
        scheduler.sample = state.history[-1] if state.history else None
        scheduler._step_index = state.step

    def capture(self, before: SamplerState, latents: Tensor) -> SamplerState:
        step, scheduler = before.step + 1, self.scheduler
        history: tuple[Tensor, ...] = ()
        if carried := self.history_after(step):
            outputs = scheduler.model_outputs[len(scheduler.model_outputs) - carried + 1 :]
            history = (*outputs, scheduler.sample)
        return SamplerState(step, latents, history)
