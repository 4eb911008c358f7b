"""Euler and Heun in the variance-exploding variables `x0 + sigma noise`. No history."""

from __future__ import annotations

from functools import cached_property

from redi.lazy import Tensor, torch
from redi.samplers.base import Sampler
from redi.samplers.state import Levels, SamplerState


class Euler(Sampler):
    """`EulerDiscreteScheduler` without churn: DDIM in other variables."""

    name = "euler"

    @cached_property
    def levels(self) -> Levels:
        sigmas = self.scheduler.sigmas.double().cpu()
        return Levels(torch.ones_like(sigmas), sigmas)

    def restore(self, state: SamplerState) -> None:
        self.scheduler._step_index = state.step
        self.scheduler.is_scale_input_called = True  # `divisor` does it

    def divisor(self, step: int, number: int) -> Tensor:
        return self.divisor_at(self._call_sigma(step, number))

    def divisor_at(self, sigma: Tensor) -> Tensor:
        return (sigma**2 + 1) ** 0.5

    def _call_sigma(self, step: int, number: int) -> Tensor:
        """The scheduler's own level of a network call."""
        return self.scheduler.sigmas[step]

    def noise_at(self, output: Tensor, latents: Tensor, alpha: float, sigma: float) -> Tensor:
        """The network sees, and a velocity refers to, the latents scaled to unit variance."""
        scale = 1 / (1 + sigma**2) ** 0.5
        return super().noise_at(output, latents * scale, scale, sigma * scale)


class Heun(Euler):
    """`HeunDiscreteScheduler`: an update is a trapezoid of two calls, the last one a single call.

    So N updates cost 2 N - 1 calls, and steps are counted in updates: the state between the two
    calls of an update is no state that could be jumped from or to.
    """

    name = "heun"

    @cached_property
    def levels(self) -> Levels:
        sigmas = self.scheduler.sigmas.double().cpu()
        sigmas = torch.cat([sigmas[:-1:2], sigmas[-1:]])  # inner ones are listed twice
        return Levels(torch.ones_like(sigmas), sigmas)

    @cached_property
    def call_timesteps(self) -> list[tuple[Tensor, ...]]:
        return trapezoids(self.scheduler.timesteps)

    def restore(self, state: SamplerState) -> None:
        restore_trapezoid(self.scheduler, state.step)
        self.scheduler.is_scale_input_called = True

    def _call_sigma(self, step: int, number: int) -> Tensor:
        return self.scheduler.sigmas[2 * step + number]


def trapezoids(timesteps: Tensor) -> list[tuple[Tensor, ...]]:
    """Timesteps (2 N - 1,) of Heun's calls, grouped into N updates."""
    calls = list(timesteps)
    return [tuple(calls[i : i + 2]) for i in range(0, len(calls), 2)]


def restore_trapezoid(scheduler: object, step: int) -> None:
    """Put a Heun scheduler before the first call of update `step`."""
    vars(scheduler).update(_step_index=2 * step, prev_derivative=None, dt=None, sample=None)
