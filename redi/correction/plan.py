"""Which few levels of a reference sampler a corrected run visits."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from redi.errors import UsageError
from redi.samplers import Sampler


@dataclass(frozen=True)
class Plan:
    """`calls + 1` of the reference sampler's levels, from pure noise to the end.

    `steps[i]` counts the reference updates done at coarse level `i`; the network is called once at
    each level but the last.
    """

    sampler: Sampler
    steps: tuple[int, ...]

    @property
    def calls(self) -> int:
        return len(self.steps) - 1

    @property
    def alpha(self) -> Tensor:
        """float64 (calls + 1,)."""
        return self.sampler.levels.alpha[list(self.steps)]

    @property
    def rho(self) -> Tensor:
        """float64 (calls + 1,), falling."""
        return self.sampler.levels.rho[list(self.steps)]

    def timestep(self, level: int) -> Tensor:
        """What the network is told at a level."""
        return self.sampler.call_timesteps[self.steps[level]][0]


def coarse_steps(num_steps: int, calls: int, told: str = "correction.calls") -> tuple[int, ...]:
    """Evenly spread reference steps: `calls + 1` numbers from 0 to `num_steps`.

    `told` is what the user calls the budgets.
    """
    if not 1 <= calls <= num_steps:
        raise UsageError(
            f"{told} has {calls}, and the trajectories have {num_steps} steps: "
            f"use numbers from 1 to {num_steps}"
        )
    return tuple(round(i * num_steps / calls) for i in range(calls + 1))


def plan(sampler: Sampler, calls: int) -> Plan:
    """The plan of a budget; refuses samplers that call the network more than once per update."""
    if any(len(timesteps) != 1 for timesteps in sampler.call_timesteps):
        raise UsageError(
            f"sampler={sampler.name} calls the network twice in one update, so its trajectories "
            "cannot be a reference for correction: use ddim, dpm_solver or dpm_solver_pp"
        )
    rho = sampler.levels.rho
    if not torch.isfinite(rho).all():
        raise UsageError(
            "the reference starts at zero signal, where y = x / alpha is not defined: "
            "set rescale_betas_zero_snr=false in the model's scheduler"
        )
    return Plan(sampler, coarse_steps(sampler.num_steps, calls))
