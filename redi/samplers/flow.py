"""Rectified flow: Euler and Heun on `x = (1 - t) x0 + t noise`. No history."""

from __future__ import annotations

from functools import cached_property

from redi.lazy import Tensor, torch
from redi.samplers.base import Sampler
from redi.samplers.euler import restore_trapezoid, trapezoids
from redi.samplers.state import Levels, SamplerState


class FlowEuler(Sampler):
    """`FlowMatchEulerDiscreteScheduler`; the network predicts the velocity `noise - x0`.

    At `t = 1` alpha is zero, so the normalised variables exist from the first update on.
    """

    name = "flow_euler"

    @cached_property
    def levels(self) -> Levels:
        times = self.scheduler.sigmas.double().cpu()
        return Levels(1 - times, times)

    @property
    def noise_scale(self) -> float:
        return 1.0

    def initial(self, noise: Tensor) -> SamplerState:
        return SamplerState(0, noise)

    def restore(self, state: SamplerState) -> None:
        self.scheduler._step_index = state.step

    def noise_at(self, output: Tensor, latents: Tensor, alpha: float, sigma: float) -> Tensor:
        return latents + alpha * output

    def clean(self, output: Tensor, latents: Tensor, alpha: float, sigma: float) -> Tensor:
        return latents - sigma * output  # also where alpha = 0


class FlowHeun(FlowEuler):
    """`FlowMatchHeunDiscreteScheduler`: two calls per update, one in the last."""

    name = "flow_heun"

    @cached_property
    def levels(self) -> Levels:
        times = self.scheduler.sigmas.double().cpu()
        times = torch.cat([times[:-1:2], times[-1:]])
        return Levels(1 - times, times)

    @cached_property
    def call_timesteps(self) -> list[tuple[Tensor, ...]]:
        return trapezoids(self.scheduler.timesteps)

    def restore(self, state: SamplerState) -> None:
        restore_trapezoid(self.scheduler, state.step)
