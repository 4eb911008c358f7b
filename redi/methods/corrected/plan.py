"""Which few levels of a reference sampler a corrected run visits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from redi.errors import UsageError
from redi.samplers import Sampler

_KARRAS = 7  # exponent of Karras et al. (2022), eq. 5


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


def check_calls(num_steps: int, calls: int, told: str = "correction.calls") -> None:
    """Refuse a budget that the trajectories do not hold; `told` is what the user calls it."""
    if not 1 <= calls <= num_steps:
        raise UsageError(
            f"{told} has {calls}, and the trajectories have {num_steps} steps: "
            f"use numbers from 1 to {num_steps}"
        )


def check_levels(placement: str, told: str = "correction.levels") -> None:
    """Refuse a placement of levels that does not exist; `told` is where the user named it."""
    if placement not in ("even", "karras") and _power(placement) is None:
        raise UsageError(
            f"{told} has {placement!r}; use even, karras, or lateP with a number P above "
            "zero, such as late1.5"
        )


def coarse_steps(rho: Tensor, calls: int, placement: str = "even") -> tuple[int, ...]:
    """`calls + 1` reference steps from 0 to the last, strictly rising.

    `rho` (N + 1,) are the reference's levels. `even`: equal strides; `lateP`: after call `i` the
    share `1 - (1 - i / calls)^P` of all steps is done, so that P > 1 makes long strides first;
    `karras`: the reference levels next to those of Karras et al. (2022).
    """
    check_levels(placement)
    last = len(rho) - 1
    check_calls(last, calls)
    if placement == "karras":
        wanted = _karras(rho, calls)
    else:
        power = 1.0 if placement == "even" else _power(placement)
        assert power is not None
        wanted = [round(last * (1 - (1 - i / calls) ** power)) for i in range(calls + 1)]
    return _rising(wanted, last)


def plan(sampler: Sampler, calls: int, placement: str = "even") -> Plan:
    """The plan of a budget; refuses samplers that call the network more than once per update."""
    return Plan(sampler, coarse_steps(check_reference(sampler), calls, placement))


def check_reference(sampler: Sampler) -> Tensor:
    """The levels `rho` of a sampler whose trajectories can be corrected to; refuses others."""
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
    return rho


def _power(placement: str) -> float | None:
    try:
        power = float(placement.removeprefix("late"))
    except ValueError:
        return None
    return power if placement.startswith("late") and 0 < power < 100 else None


def _karras(rho: Tensor, calls: int) -> list[int]:
    high, low = (float(rho[i]) ** (1 / _KARRAS) for i in (0, -2))
    strides = max(calls - 1, 1)
    wanted = [(high + i / strides * (low - high)) ** _KARRAS for i in range(calls)]
    nearest = [int((rho[:-1].log() - torch.tensor(w).log()).abs().argmin()) for w in wanted]
    return [*nearest, len(rho) - 1]


def _rising(steps: Sequence[int], last: int) -> tuple[int, ...]:
    """The steps moved apart as little as makes them different, ends fixed."""
    found = [0, *steps[1:-1], last]
    for i in range(1, len(found) - 1):
        found[i] = max(found[i], found[i - 1] + 1)
    for i in range(len(found) - 2, 0, -1):
        found[i] = min(found[i], found[i + 1] - 1)
    return tuple(found)
