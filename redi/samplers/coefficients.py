"""Coefficients of the multistep samplers in normalised variables; nowhere else are they written.

With `y = x / alpha` and `rho = sigma / alpha` one update to the level `rho'` reads

    y' = carry y + gain sum_j weights[j] p_j,        p_0 the newest prediction.

Noise form: `p = e`, the noise prediction; `carry = 1`, `gain = rho' - rho`. Data form: `p = d =
y - rho e`, the predicted clean latents; `carry = rho' / rho`, `gain = 1 - carry`, which also holds
for `rho' = 0`. The weights sum to 1. Levels are listed newest first, like predictions; a method is
given as many of them as it shall combine, so a run that is too young for its order gives fewer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from redi.lazy import Tensor, torch

Weights = tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Coefficients:
    """One update of a linear multistep method."""

    carry: float
    gain: float
    weights: Weights
    data_form: bool = False

    def apply(self, y: Tensor, predictions: Sequence[Tensor]) -> Tensor:
        """`y'` from `y` and the predictions, newest first, all of one shape."""
        return self.carry * y + self.gain * self.combine(predictions)

    def combine(self, predictions: Sequence[Tensor]) -> Tensor:
        """Weighted sum of the predictions, newest first; further ones are left alone."""
        start = torch.zeros_like(predictions[0])
        return sum((b * p for b, p in zip(self.weights, predictions, strict=False)), start)


def noise_step(rho: float, target: float, weights: Weights) -> Coefficients:
    """An update from `rho` to `target` that combines noise predictions."""
    return Coefficients(carry=1.0, gain=target - rho, weights=weights)


def data_step(rho: float, target: float, weights: Weights) -> Coefficients:
    """An update from `rho` to `target` that combines predicted clean latents."""
    carry = target / rho
    return Coefficients(carry=carry, gain=1 - carry, weights=weights, data_form=True)


def adams_bashforth(count: int) -> Weights:
    """Weights of order `count`, 1 to 4, for equal steps (PNDM, Liu et al. 2022, eq. 12)."""
    return _ADAMS_BASHFORTH[count - 1]


_ADAMS_BASHFORTH: tuple[Weights, ...] = (
    (1.0,),
    (3 / 2, -1 / 2),
    (23 / 12, -16 / 12, 5 / 12),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)


def adams_bashforth_of(visited: Sequence[float], target: float) -> Weights:
    """Adams-Bashforth weights of order `len(visited)` for steps as they are (iPNDM_v).

    The polynomial in `rho` through the predictions, integrated from the newest level on.
    """
    step = target - visited[0]
    places = [(rho - visited[0]) / step for rho in visited]
    powers = np.vander(places, len(places), increasing=True).T
    moments = [1 / (k + 1) for k in range(len(places))]
    return tuple(float(w) for w in np.linalg.solve(powers, moments))


def dpm_solver(visited: Sequence[float], target: float, sign: int) -> Weights:
    """DPM-Solver multistep of order 1 to 3, midpoint form (Lu et al. 2022).

    `sign` is 1 in the noise form and -1 in the data form (DPM-Solver++), whose integrals are those
    of the noise form with the opposite sign of the step `h = log(rho / rho')`.
    """
    if len(visited) == 1:
        return (1.0,)
    step = math.log(visited[0] / target)
    near, *rest = (math.log(far / close) / step for close, far in pairwise(visited))
    if not rest:
        half = 1 / (2 * near)
        return 1 + half, -half
    (far,), z = rest, sign * step
    full = math.expm1(z)
    slope = (full / z - 1) / full  # of the first difference
    bend = ((full - z) / z**2 - 1 / 2) / full  # of the second
    second = (slope * near + bend) / (near + far)
    return (
        1 + (slope + second) / near,
        -(slope + second) / near - second / far,
        second / far,
    )


def exponential(z: float, places: Sequence[float]) -> Weights:
    """The polynomial through the predictions at `places`, integrated exactly from 0 to `z`.

    The integral is over `s` with weight `e^s`. In the noise form `s = log rho`, less its value at
    the start (DEIS, Zhang and Chen 2023); in the data form `s = -log rho`, less that value.
    """
    moments = [1.0]  # of s^k under e^s between 0 and z, over that of 1
    for k in range(1, len(places)):
        moments.append(z**k * math.exp(z) / math.expm1(z) - k * moments[-1])
    powers = np.vander(places, len(places), increasing=True).T  # (k, j)
    return tuple(float(w) for w in np.linalg.solve(powers, moments))


def deis(visited: Sequence[float], target: float) -> Weights:
    """DEIS with a polynomial in `log rho`, of order `len(visited)`."""
    if len(visited) == 1:
        return (1.0,)
    places = [math.log(rho / visited[0]) for rho in visited]
    return exponential(math.log(target / visited[0]), places)


def unipc(visited: Sequence[float], target: float) -> Weights:
    """UniP of order 1 to 3 with `B_2(h)`, data form (UniPC, Zhao et al. 2023, alg. 2).

    `B_2(h)` makes it the exponential interpolation, but for order 2, which is the midpoint form.
    """
    if len(visited) < 3:
        return dpm_solver(visited, target, -1)
    places = [math.log(visited[0] / rho) for rho in visited]
    return exponential(math.log(visited[0] / target), places)


def unipc_corrector(visited: Sequence[float]) -> Coefficients:
    """UniC with `B_2(h)`, data form (UniPC, Zhao et al. 2023, alg. 1).

    The step to `visited[0]` is made again from the state at `visited[1]`, now with the prediction
    at `visited[0]` as well. Its order is that of the predictor that it corrects: one less than the
    number of levels.
    """
    here, before, *_ = visited
    if len(visited) == 2:
        return data_step(before, here, (1 / 2, 1 / 2))
    places = [math.log(before / rho) for rho in visited]
    return data_step(before, here, exponential(places[0], places))


#: Updates by the name of their sampler: levels of the predictions that it combines (newest first)
#: and the level that it goes to.
METHODS: dict[str, Callable[[Sequence[float], float], Coefficients]] = {
    **dict.fromkeys(
        ("ddim", "euler", "flow_euler"), lambda rho, to: noise_step(rho[0], to, (1.0,))
    ),
    "pndm": lambda rho, to: noise_step(rho[0], to, adams_bashforth(len(rho))),
    "ipndm_v": lambda rho, to: noise_step(rho[0], to, adams_bashforth_of(rho, to)),
    "dpm_solver": lambda rho, to: noise_step(rho[0], to, dpm_solver(rho, to, 1)),
    "dpm_solver_pp": lambda rho, to: data_step(rho[0], to, dpm_solver(rho, to, -1)),
    "deis": lambda rho, to: noise_step(rho[0], to, deis(rho, to)),
    "unipc": lambda rho, to: data_step(rho[0], to, unipc(rho, to)),
}
