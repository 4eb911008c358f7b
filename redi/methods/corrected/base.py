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

from redi.methods.corrected.predict import Prediction
from redi.samplers.pndm import ADAMS_BASHFORTH


@dataclass(frozen=True)
class Visit:
    """One level that a run has been to."""

    rho: float
    y: Tensor  # (B, C, H, W) float64
    noise: Tensor  # (B, C, H, W) float64 prediction e
    guidance: Tensor | None = None  # (B, C, H, W) float64 guidance difference

    @property
    def clean(self) -> Tensor:
        """Predicted clean latents `d = y - rho e`."""
        return self.y - self.rho * self.noise


def visit(rho: float, y: Tensor, prediction: Prediction) -> Visit:
    """A level with what the network said there, in float64."""
    noise, guidance = prediction
    return Visit(rho, y, noise.double(), None if guidance is None else guidance.double())


def ddim(visits: Sequence[Visit], rho: float, last: bool) -> Tensor:
    """Euler: `y + h e`."""
    here = visits[-1]
    return here.y + (rho - here.rho) * here.noise


def dpm_solver_pp(visits: Sequence[Visit], rho: float, last: bool) -> Tensor:
    """DPM-Solver++ 2M in data form; first order at the first and the last step."""
    return _data_step(visits[-1].y, visits, rho, last)


def _data_step(y: Tensor, visits: Sequence[Visit], rho: float, last: bool) -> Tensor:
    here = visits[-1]
    combined = here.clean
    if len(visits) > 1 and not last:
        before = visits[-2]
        ratio = math.log(before.rho / here.rho) / math.log(here.rho / rho)
        combined = combined + (combined - before.clean) / (2 * ratio)
    kappa = rho / here.rho
    return kappa * y + (1 - kappa) * combined


def unipc(visits: Sequence[Visit], rho: float, last: bool) -> Tensor:
    """UniPC of order 2 with `B_2(h)` in data form: corrects the state it is at, then predicts.

    Its predictor is the step of DPM-Solver++ 2M. Its corrector weighs the predictions otherwise and
    starts from the same state, so it shifts the state it is at, whatever brought the run there.
    """
    y = visits[-1].y
    if len(visits) > 1:
        y = y + _corrector_shift(visits[-3:])
    return _data_step(y, visits, rho, last)


def _corrector_shift(visits: Sequence[Visit]) -> Tensor:
    """UniC less UniP for the step to the last visit, from it and the one or two before."""
    before, here = visits[-2], visits[-1]
    kappa, change = here.rho / before.rho, here.clean - before.clean
    if len(visits) == 2:
        return (1 - kappa) * change / 2
    earlier, step = visits[-3], math.log(before.rho / here.rho)
    ratio = math.log(earlier.rho / before.rho) / step
    slope = (before.clean - earlier.clean) / ratio
    first = (1 - kappa) / step - 1  # h phi_k(-h) of order 1, 2
    second = -first / step - 1 / 2
    on_slope = (first - 2 * second) / (kappa - 1) / (1 + ratio)
    on_change = first / (kappa - 1) - on_slope
    return (1 - kappa) * ((on_slope - 1 / 2) * slope + on_change * change)


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
    "unipc": unipc,
}
