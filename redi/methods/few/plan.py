"""Which few levels of a reference sampler a run visits."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from redi.errors import UsageError
from redi.lazy import Tensor, torch
from redi.samplers import Levels, Sampler

_LEAST_SIGNAL = 2.0**-24  # alpha where a rectified flow starts


@dataclass(frozen=True)
class Plan:
    """Some of the reference sampler's levels, from pure noise to the end.

    `steps[i]` counts the reference updates done at coarse level `i`. The network is called once at
    each level but the last; with an analytic first step not at the first one either, where its
    answer is taken to be the latents' own direction, `y / sqrt(1 + rho^2)`.
    """

    sampler: Sampler
    steps: tuple[int, ...]
    analytic: bool = False

    @property
    def strides(self) -> int:
        """Steps from level to level."""
        return len(self.steps) - 1

    @property
    def asked(self) -> range:
        """Levels at which the network is called."""
        return range(int(self.analytic), self.strides)

    @property
    def calls(self) -> int:
        return len(self.asked)

    @cached_property
    def alpha(self) -> Tensor:
        """float64 (strides + 1,)."""
        return solver_levels(self.sampler).alpha[list(self.steps)]

    @cached_property
    def rho(self) -> Tensor:
        """float64 (strides + 1,), falling."""
        return solver_levels(self.sampler).rho[list(self.steps)]

    def target(self, level: int) -> tuple[float, float]:
        """Where the step from a level goes: the `rho` that the reference's own update wrote, and
        by what its `y` is multiplied to be read as the next call does."""
        step = self.steps[level + 1]
        written, read = self.sampler.written, solver_levels(self.sampler)
        return float(written.rho[step]), float(written.alpha[step] / read.alpha[step])

    @property
    def noise_scale(self) -> float:
        """What unit noise is multiplied by to be the latents of the first call."""
        own = self.sampler.noise_scale
        if not self.analytic:
            return own
        return own * self.first_gain * float(self.alpha[1] / self.alpha[0])

    @property
    def first_gain(self) -> float:
        """What an analytic first step multiplies `y` by."""
        start = float(self.rho[0])
        rho, change = self.target(0)
        return (1 + (rho - start) / (1 + start**2) ** 0.5) * change

    def timestep(self, level: int) -> Tensor:
        """What the network is told at a level."""
        return self.sampler.call_timesteps[self.steps[level]][0]


def solver_levels(sampler: Sampler) -> Levels:
    """A sampler's levels, where `y = x / alpha` exists at each of them.

    A rectified flow starts at zero signal. It is taken to start just below, by less than float32
    tells from it.
    """
    own = sampler.levels
    if float(own.alpha[0]) > 0 or not torch.allclose(
        own.alpha + own.sigma, torch.ones_like(own.alpha)
    ):
        return own
    alpha = own.alpha.clamp_min(_LEAST_SIGNAL)
    return Levels(alpha, 1 - alpha)


def check_calls(num_steps: int, calls: int, told: str = "correction.calls") -> None:
    """Refuse a budget that the trajectories do not hold; `told` is what the user calls it."""
    if not 1 <= calls <= num_steps:
        raise UsageError(
            f"{told} has {calls}, and the trajectories have {num_steps} steps: "
            f"use numbers from 1 to {num_steps}"
        )


def check_reference(sampler: Sampler) -> Tensor:
    """The levels `rho` of a sampler whose trajectories can be corrected to; refuses others."""
    if any(len(timesteps) != 1 for timesteps in sampler.call_timesteps):
        raise UsageError(
            f"sampler={sampler.name} calls the network twice in one update, so its trajectories "
            "cannot be a reference for correction: use ddim, dpm_solver or dpm_solver_pp"
        )
    rho = solver_levels(sampler).rho
    if not torch.isfinite(rho).all():
        raise UsageError(
            "the reference starts at zero signal, where y = x / alpha is not defined: "
            "set rescale_betas_zero_snr=false in the model's scheduler"
        )
    return rho
