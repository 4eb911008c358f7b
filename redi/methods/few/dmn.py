"""DMN levels: no model, only how a solver's weights sum up the errors of its outputs."""

from __future__ import annotations

import math
from functools import cache
from itertools import accumulate

import numpy as np

from redi.lazy import optimize
from redi.samplers.coefficients import exponential

_ORDER = 3
_WIDEST = 2.0  # of the logarithm of a step's share: no step vanishes


@cache
def dmn_levels(high: float, low: float, strides: int, power: float) -> tuple[float, ...]:
    """Levels `rho` (strides + 1,) that minimise the error bound of Xue et al. (2024, eq. 10).

    An output at `sigma` is off by about `sigma^power / alpha` (1 for pixels, 2 for latents); the
    bound is the sum of these over all outputs, each times the total of its weights over the run of
    a multistep solver of order 3 in data form.
    """
    if strides < 2:
        return high, low
    span = math.log(high / low)

    def levels(free: np.ndarray) -> list[float]:
        shares = np.exp(free - free.max())
        steps = shares / shares.sum() * span
        return [high * math.exp(-done) for done in accumulate([0.0, *steps])]

    def bound(free: np.ndarray) -> float:
        rho = levels(free)
        total = np.zeros(strides)
        for i in range(strides):
            order = min(_ORDER, i + 1, strides - i)  # lower at both ends, as solvers are run
            used = range(i, i - order, -1)  # newest first
            places = [math.log(rho[i] / rho[j]) for j in used]
            weights = exponential(math.log(rho[i] / rho[i + 1]), places)
            total[list(used)] += (1 / rho[i + 1] - 1 / rho[i]) * np.array(weights)
        at = np.array(rho[:-1])
        error = (at**2 / (1 + at**2)) ** (power / 2) * np.sqrt(1 + at**2)
        return math.log(float(error @ np.abs(total)))

    found = optimize.minimize(
        bound, np.zeros(strides), method="L-BFGS-B", bounds=[(-_WIDEST, _WIDEST)] * strides
    )
    return tuple(levels(found.x))
