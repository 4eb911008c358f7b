"""DDIM with eta = 0, the Euler method of the probability-flow equation. No history."""

from __future__ import annotations

from functools import cached_property

from torch import Tensor

from redi.samplers.base import Sampler, alpha_levels
from redi.samplers.state import Levels, Predict, SamplerState, StepRecord


class DDIM(Sampler):
    name = "ddim"

    @cached_property
    def levels(self) -> Levels:
        timesteps = [int(t) for t in self.scheduler.timesteps]
        stride = self.scheduler.config.num_train_timesteps // self.num_steps
        return alpha_levels(self.scheduler, timesteps[:1] + [t - stride for t in timesteps])

    @cached_property
    def call_timesteps(self) -> list[tuple[Tensor, ...]]:
        return [(t,) for t in self.scheduler.timesteps]

    def advance(self, state: SamplerState, predict: Predict) -> StepRecord:
        (timestep,) = self.call_timesteps[state.step]
        output = predict(self._model_input(state.latents, timestep), timestep)
        latents = self.scheduler.step(output, timestep, state.latents, eta=0.0).prev_sample
        noise = self.noise_prediction(output, state.latents, state.step)
        return StepRecord(SamplerState(state.step + 1, latents), (noise,))
