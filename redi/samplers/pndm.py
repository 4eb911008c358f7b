"""PNDM without Runge-Kutta warm-up (PLMS), as Stable Diffusion uses it.

The first update is a trapezoid of two network calls that keeps only its first prediction, so N
updates cost N + 1 calls. Later updates are Adams-Bashforth of rising order up to four.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property

from torch import Tensor

from redi.errors import UsageError
from redi.samplers.base import Sampler, alpha_levels
from redi.samplers.state import Levels, Predict, SamplerState, StepRecord


class PNDM(Sampler):
    name = "pndm"
    history_size = 3

    def __init__(self, scheduler: object, num_steps: int) -> None:
        super().__init__(scheduler, num_steps)
        if num_steps < 2:
            raise UsageError(f"sampling.steps={num_steps} is too small for PNDM: use at least 2")

    @cached_property
    def levels(self) -> Levels:
        timesteps = [int(calls[0]) for calls in self.call_timesteps]
        stride = self.scheduler.config.num_train_timesteps // self.num_steps
        return alpha_levels(self.scheduler, timesteps[:1] + [t - stride for t in timesteps])

    @cached_property
    def call_timesteps(self) -> list[tuple[Tensor, ...]]:
        first, second, _, *rest = self.scheduler.timesteps
        return [(first, second), (second,), *((t,) for t in rest)]

    def advance(self, state: SamplerState, predict: Predict) -> StepRecord:
        if state.legacy_counter is not None:
            return self._advance_legacy(state, predict)
        if state.step > 0:
            counter = 2 if state.history else 0  # an empty history starts with one Euler update
            return self._call(state, predict, self.call_timesteps[state.step][0], counter)
        first, second = self.call_timesteps[0]
        euler = self._call(state, predict, first, 0)
        trapezoid = self._call(replace(euler.state, step=0), predict, second, 1, held=state.latents)
        return StepRecord(trapezoid.state, euler.predictions + trapezoid.predictions)

    def resume(
        self, step: int, latents: Tensor, policy: str, history: tuple[Tensor, ...] = ()
    ) -> SamplerState:
        state = super().resume(step, latents, policy, history)
        return replace(state, legacy_counter=0) if policy == "legacy" and step > 0 else state

    def _advance_legacy(self, state: SamplerState, predict: Predict) -> StepRecord:
        """A fresh scheduler takes its second call for the second half of a warm-up trapezoid.

        That call then makes no progress, and every later one evaluates a state that lags one
        update behind its timestep (the published code).
        """
        counter = state.legacy_counter or 0
        timestep = self.call_timesteps[state.step][0]
        record = self._call(state, predict, timestep, min(counter, 2), held=state.legacy_sample)
        held = state.latents if counter == 0 else None
        following = replace(record.state, legacy_counter=counter + 1, legacy_sample=held)
        return replace(record, state=following)

    def _call(
        self,
        state: SamplerState,
        predict: Predict,
        timestep: Tensor,
        counter: int,
        held: Tensor | None = None,
    ) -> StepRecord:
        """One network call and scheduler step with all of the scheduler's memory set first."""
        scheduler = self.scheduler
        scheduler.ets, scheduler.counter, scheduler.cur_sample = list(state.history), counter, held
        output = predict(self._model_input(state.latents, timestep), timestep)
        latents = scheduler.step(output, timestep, state.latents).prev_sample
        level = state.step + 1 if counter == 1 and state.legacy_counter is None else state.step
        noise = self.noise_prediction(output, state.latents, level)
        history = tuple(scheduler.ets[-self.history_size :])
        return StepRecord(SamplerState(state.step + 1, latents, history), (noise,))
