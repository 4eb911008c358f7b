"""Weights on past predictions, as each exponential integrator extrapolates them.

An update integrates its prediction over `u = log rho` with weight `e^u`: over the step `z = u_{i+1}
- u_i` in the noise form, over `-z` in the data form, whose integrals are those of the noise form
with the opposite sign. Nodes are the places `s_j = u_{i-j} - u_i` of the past calls.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

Weights = tuple[float, ...]


def dpm_solver(z: float, steps: Sequence[float]) -> Weights:
    """DPM-Solver and DPM-Solver++ multistep of order `len(steps) + 1`, at most 3.

    Args:
        z: `h` in the noise form, `-h` in the data form, where `h = log(rho_i / rho_{i+1})`. May be
            infinite for order 1.
        steps: lengths of the steps before this one as shares of it, the latest first: `h_{i-1} / h`
            and, for order 3, `h_{i-2} / h`.
    """
    if not steps:
        return (1.0,)
    if len(steps) == 1:  # midpoint
        half = 1 / (2 * steps[0])
        return 1 + half, -half
    near, far = steps
    full = math.expm1(z)
    slope = (full / z - 1) / full  # of the first difference
    bend = ((full - z) / z**2 - 1 / 2) / full  # of the second
    second = (slope * near + bend) / (near + far)
    return (
        1 + (slope + second) / near,
        -(slope + second) / near - second / far,
        second / far,
    )


def deis(z: float, places: Sequence[float]) -> Weights:
    """DEIS: the polynomial in `log rho` through the predictions at `places`, integrated exactly.

    Args:
        z: `log(rho_{i+1} / rho_i)`, negative.
        places: `log(rho_{i-j} / rho_i)`, the first of them 0.
    """
    order = len(places)
    moments = [1.0]  # of s^k under e^s between 0 and z, over that of 1
    for k in range(1, order):
        moments.append(z**k * math.exp(z) / math.expm1(z) - k * moments[-1])
    powers = np.vander(places, order, increasing=True).T  # (k, j)
    return tuple(float(w) for w in np.linalg.solve(powers, moments))
