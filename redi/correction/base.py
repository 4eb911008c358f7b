"""One large step of a base sampler between any two levels, in normalised variables.

`y = x / alpha`, `rho = sigma / alpha`, `e` the noise prediction, `d = y - rho e` the predicted
clean latents (theory.md section 1). The forms are those of the samplers with the same names, so a
corrected run whose corrections are zero is the plain sampler on the same levels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from redi.samplers.pndm import ADAMS_BASHFORTH


@dataclass(frozen=True)
class Visit:
    """One level that a run has been to."""

    rho: float
    y: Tensor  # (B, C, H, W) float64
    noise: Tensor  # (B, C, H, W) float64 prediction e

    @property
    def clean(self) -> Tensor:
        """Predicted clean latents `d = y - rho e`."""
        return self.y - self.rho * self.noise


def ddim(visits: Sequence[Visit], rho: float, last: bool) -> Tensor:
    """Euler: `y + h e`."""
    here = visits[-1]
    return here.y + (rho - here.rho) * here.noise


def dpm_solver_pp(visits: Sequence[Visit], rho: float, last: bool) -> Tensor:
    """DPM-Solver++ 2M in data form; first order at the first and the last step."""
    here = visits[-1]
    combined = here.clean
    if len(visits) > 1 and not last:
        before = visits[-2]
        ratio = math.log(before.rho / here.rho) / math.log(here.rho / rho)
        combined = combined + (combined - before.clean) / (2 * ratio)
    kappa = rho / here.rho
    return kappa * here.y + (1 - kappa) * combined


def pndm(visits: Sequence[Visit], rho: float, last: bool) -> Tensor:
    """Adams-Bashforth of rising order in `e` (PLMS without its trapezoid start)."""
    here, recent = visits[-1], visits[:-5:-1]
    weights = ADAMS_BASHFORTH[len(recent) - 1]
    slope = sum(
        (b * visit.noise for b, visit in zip(weights[1:], recent[1:], strict=True)),
        weights[0] * here.noise,
    )
    return here.y + (rho - here.rho) * slope


#: Base updates by the name of their sampler: visits so far (oldest first), the next level's rho,
#: and whether it is the end, to the next y.
BASES: dict[str, Callable[[Sequence[Visit], float, bool], Tensor]] = {
    "ddim": ddim,
    "dpm_solver_pp": dpm_solver_pp,
    "pndm": pndm,
}
