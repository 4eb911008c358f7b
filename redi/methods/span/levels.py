"""Noise levels that a span solver visits, and one network call at such a level.

States are kept in rectified coordinates, `z = x / (alpha + sigma)` at the time
`t = sigma / (alpha + sigma)`: every schedule is a straight line from noise to data there,
`z = (1 - t) d + t e`. They are finite where a rectified flow starts (`alpha = 0`), and an update in
data form reads as it does in `y = x / alpha` over `rho`: `z' = (t' / t) z + (1 - t' / t) sum w d`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from redi.lazy import Tensor, torch
from redi.methods.few import Plan
from redi.samplers import Ask, Calls, Sampler


@dataclass(frozen=True)
class NoiseLevel:
    """`x = alpha x0 + sigma noise`, and what the network is told there."""

    alpha: float
    sigma: float
    #: None where a run ends
    timestep: Tensor | None = None
    divisor: Tensor | None = None

    @property
    def scale(self) -> float:
        """What a state in rectified coordinates is multiplied by."""
        return self.alpha + self.sigma

    @property
    def time(self) -> float:
        """1 at pure noise, 0 at data."""
        return self.sigma / self.scale

    @property
    def rho(self) -> float:
        """`sigma / alpha`, infinite at pure noise."""
        return self.sigma / self.alpha if self.alpha else math.inf


def levels_of(plan: Plan) -> tuple[NoiseLevel, ...]:
    """Levels of a plan's calls and of the end."""
    found = []
    for level in plan.asked:
        alpha, rho = float(plan.alpha[level]), float(plan.rho[level])
        divisor = plan.sampler.divisor(plan.steps[level], 0)
        found.append(NoiseLevel(alpha, rho * alpha, plan.timestep(level).float(), divisor))
    rho, _ = plan.target(plan.strides - 1)
    alpha = float(plan.alpha[-1])
    return (*found, NoiseLevel(alpha, rho * alpha))


def look(
    sampler: Sampler, level: NoiseLevel, z: Tensor, like: Tensor, position: int
) -> Calls[tuple[Tensor, Tensor]]:
    """One network call: the state it was made on, and the predicted clean latents, float64.

    Args:
        z: states (B, ...) float64 in rectified coordinates.
        like: what the network's input is like: its dtype and device.
        position: of the call among those that a pipeline's loop goes through.
    """
    assert level.timestep is not None
    latents = (z * level.scale).to(like)
    answer = yield Ask(latents, level.timestep, position, level.divisor)
    if not torch.equal(answer.latents, latents):  # a pipeline's callback changed them
        z = answer.latents.double() / level.scale
    shown, said = answer.latents.double(), answer.output.double()
    return z, sampler.clean(said, shown, level.alpha, level.sigma)


class Between:
    """Noise levels between those of a sampler's states, told by interpolated timesteps."""

    def __init__(self, sampler: Sampler) -> None:
        self.sampler = sampler
        self.known = levels_of(Plan(sampler, tuple(range(sampler.num_steps + 1))))[:-1]

    @cached_property
    def _table(self) -> tuple[np.ndarray, np.ndarray]:
        times = [level.time for level in self.known]
        told = [float(level.timestep) for level in self.known]  # type: ignore[arg-type]
        return np.array(times[::-1]), np.array(told[::-1])

    @property
    def lowest(self) -> float:
        """The least `rho` that the network is called at."""
        return self.known[-1].rho

    def at(self, rho: float) -> NoiseLevel:
        """The level with `sigma / alpha = rho`, on the schedule of the sampler's variables."""
        time = rho / (1 + rho)
        told = np.interp(time, *self._table)
        alpha = self._alpha(rho)
        sigma = torch.tensor(rho * alpha, dtype=torch.float32)
        return NoiseLevel(
            alpha,
            rho * alpha,
            torch.tensor(told, dtype=torch.float32).to(self.known[0].timestep.device),  # type: ignore[union-attr]
            self.sampler.divisor_at(sigma),
        )

    def _alpha(self, rho: float) -> float:
        """Variance-exploding, variance-preserving or flow, whichever the sampler's levels are."""
        level = self.known[-1]
        if level.alpha == 1:
            return 1.0
        if abs(level.alpha + level.sigma - 1) < 1e-6:
            return 1 / (1 + rho)
        return 1 / math.sqrt(1 + rho**2)
