"""DDIM with eta = 0, the Euler method of the probability-flow equation. No history."""

from __future__ import annotations

from functools import cached_property

from redi.samplers.base import Sampler, alpha_levels
from redi.samplers.state import Levels, SamplerState


class DDIM(Sampler):
    name = "ddim"

    @cached_property
    def levels(self) -> Levels:
        timesteps = [int(t) for t in self.scheduler.timesteps]
        stride = self.scheduler.config.num_train_timesteps // self.num_steps
        return alpha_levels(self.scheduler, timesteps[:1] + [t - stride for t in timesteps])

    def restore(self, state: SamplerState) -> None:
        """The scheduler carries nothing: every step is given its timestep."""
