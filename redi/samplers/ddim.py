"""DDIM with eta = 0, the Euler method of the probability-flow equation. No history."""

from __future__ import annotations

from functools import cached_property

from redi.samplers.base import Sampler, alpha_levels
from redi.samplers.state import Levels, SamplerState


class DDIM(Sampler):
    name = "ddim"

    @cached_property
    def levels(self) -> Levels:
        return alpha_levels(self.scheduler, [*self._timesteps, self._reached[-1]])

    @cached_property
    def written(self) -> Levels:
        return alpha_levels(self.scheduler, [self._timesteps[0], *self._reached])

    @property
    def _timesteps(self) -> list[int]:
        return [int(t) for t in self.scheduler.timesteps]

    @property
    def _reached(self) -> list[int]:
        """Timestep that each update goes down to."""
        stride = self.scheduler.config.num_train_timesteps // self.num_steps
        return [t - stride for t in self._timesteps]

    def restore(self, state: SamplerState) -> None:
        """The scheduler carries nothing: every step is given its timestep."""
