"""Multistep DPM-Solver in noise form and DPM-Solver++ in data form."""

from __future__ import annotations

from functools import cached_property

from torch import Tensor

from redi.samplers.base import Sampler
from redi.samplers.state import Levels, Predict, SamplerState, StepRecord


class DPMSolver(Sampler):
    """`DPMSolverMultistepScheduler` of any order; the history is its converted outputs."""

    name = "dpm_solver"

    @property
    def history_size(self) -> int:  # type: ignore[override]
        return self.scheduler.config.solver_order - 1

    @cached_property
    def levels(self) -> Levels:
        rho = self.scheduler.sigmas.double()
        alpha = 1 / (1 + rho.square()).sqrt()
        return Levels(alpha, rho * alpha)

    @cached_property
    def call_timesteps(self) -> list[tuple[Tensor, ...]]:
        return [(t,) for t in self.scheduler.timesteps]

    def advance(self, state: SamplerState, predict: Predict) -> StepRecord:
        scheduler, order = self.scheduler, self.scheduler.config.solver_order
        (timestep,) = self.call_timesteps[state.step]
        output = predict(self._model_input(state.latents, timestep), timestep)
        padding = [None] * (order - len(state.history))
        scheduler.model_outputs = padding + list(state.history)
        scheduler.lower_order_nums = len(state.history)
        scheduler._step_index = state.step
        latents = scheduler.step(output, timestep, state.latents).prev_sample
        kept = min(len(state.history) + 1, self.history_size)
        history = tuple(scheduler.model_outputs[order - kept :])
        noise = self.noise_prediction(output, state.latents, state.step)
        return StepRecord(SamplerState(state.step + 1, latents, history), (noise,))


class DPMSolverPlusPlus(DPMSolver):
    name = "dpm_solver_pp"
