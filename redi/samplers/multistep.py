"""Multistep exponential integrators: DPM-Solver, DPM-Solver++, DEIS and UniPC.

Their schedulers share one memory: the converted outputs of the last calls, how many of them count,
and a step index. UniPC adds the sample that its corrector starts from.
"""

from __future__ import annotations

from functools import cached_property

from redi.lazy import Tensor
from redi.samplers.base import Sampler, sigma_levels
from redi.samplers.state import Levels, SamplerState


class Multistep(Sampler):
    """`solver_order - 1` converted outputs as history, oldest first."""

    @property
    def history_size(self) -> int:
        return self.scheduler.config.solver_order - 1

    @cached_property
    def levels(self) -> Levels:
        return sigma_levels(self.scheduler)

    def restore(self, state: SamplerState) -> None:
        self._set_outputs(state.history)
        self.scheduler._step_index = state.step

    def capture(self, before: SamplerState, latents: Tensor) -> SamplerState:
        kept = min(len(before.history) + 1, self.history_size)
        return SamplerState(before.step + 1, latents, self._last_outputs(kept))

    def _set_outputs(self, outputs: tuple[Tensor, ...]) -> None:
        missing = self.scheduler.config.solver_order - len(outputs)
        self.scheduler.model_outputs = [None] * missing + list(outputs)
        self.scheduler.lower_order_nums = len(outputs)

    def _last_outputs(self, count: int) -> tuple[Tensor, ...]:
        outputs = self.scheduler.model_outputs
        return tuple(outputs[len(outputs) - count :])


class DPMSolver(Multistep):
    """`DPMSolverMultistepScheduler` in noise form."""

    name = "dpm_solver"


class DPMSolverPlusPlus(Multistep):
    """`DPMSolverMultistepScheduler` in data form."""

    name = "dpm_solver_pp"


class DEIS(Multistep):
    """`DEISMultistepScheduler`: polynomial extrapolation of the noise in log-rho."""

    name = "deis"


class UniPC(Multistep):
    """`UniPCMultistepScheduler`: each call first corrects the update before it.

    The corrector needs one output more than the predictor and the (corrected) sample that the
    previous update started from, which is the last item of the history. A resume without history
    has no sample to correct; keeping another trajectory's would pull the jump back to it.
    """

    name = "unipc"

    @property
    def history_size(self) -> int:
        return self.scheduler.config.solver_order + 1

    def history_after(self, step: int) -> int:
        return min(step + 1, self.history_size) if step else 0

    def history_steps(self, step: int) -> tuple[int | None, ...]:
        carried = self.history_after(step)
        return (*(None,) * (carried - 1), step - 1) if carried else ()

    def restore(self, state: SamplerState) -> None:
        scheduler, outputs = self.scheduler, state.history[:-1]
        super().restore(SamplerState(state.step, state.latents, outputs))
        scheduler.timestep_list = [None] * scheduler.config.solver_order
        scheduler.last_sample = state.history[-1] if state.history else None
        cap = scheduler.config.solver_order
        if scheduler.config.lower_order_final:
            cap = min(cap, self.num_steps - state.step + 1)
        scheduler.this_order = min(cap, len(outputs))  # of the update that will be corrected

    def capture(self, before: SamplerState, latents: Tensor) -> SamplerState:
        kept = min(len(before.history[:-1]) + 1, self.scheduler.config.solver_order)
        history = (*self._last_outputs(kept), self.scheduler.last_sample)
        return SamplerState(before.step + 1, latents, history)
