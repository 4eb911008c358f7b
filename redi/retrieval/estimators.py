"""Estimators of the latents at the value step from the query's and its neighbours' key and value.

All are written in the normalised variables `y = x / alpha`, `rho = sigma / alpha`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from redi.lazy import Tensor


@dataclass(frozen=True)
class Jump:
    """What is known when a query jumps from the key step to the value step.

    Predictions are the last ones made before the key step: paid for already.
    """

    query_key: Tensor  # (B, C, H, W) y at the key step
    query_prediction: Tensor  # (B, C, H, W) noise prediction
    keys: Tensor  # (B, N, C, H, W)
    predictions: Tensor  # (B, N, C, H, W)
    values: Tensor  # (B, N, C, H, W) y at the value step
    weights: Tensor  # (B, N)
    stride: float  # rho at the value step minus rho at the key step

    def combine(self, items: Tensor) -> Tensor:
        """Weighted sum over neighbours: (B, N, C, H, W) -> (B, C, H, W), or of videos."""
        weights = self.weights.reshape(*self.weights.shape, *[1] * (items.ndim - 2))
        return (weights * items).sum(1)


def paper(jump: Jump) -> Tensor:
    """`y_v = sum_h w_h y^h_v`: the neighbours' values take the query's place (ReDi, Alg. 2)."""
    return jump.combine(jump.values)


def transport(jump: Jump) -> Tensor:
    """`y_v = y_k + sum_h w_h (y^h_v - y^h_k)`: only the neighbours' displacement is borrowed."""
    return jump.query_key + jump.combine(jump.values - jump.keys)


def delta(jump: Jump) -> Tensor:
    """A control variate: the query's own straight line plus the neighbours' curvature.

    `y_v = [y_k + (rho_v - rho_k) e_k] + sum_h w_h ([y^h_v - y^h_k] - (rho_v - rho_k) e^h_k)`.
    """
    curvature = jump.values - jump.keys - jump.stride * jump.predictions
    return straight(jump) + jump.combine(curvature)


def straight(jump: Jump) -> Tensor:
    """One DDIM step from key to value with the last prediction; retrieves nothing."""
    return jump.query_key + jump.stride * jump.query_prediction


ESTIMATORS: dict[str, Callable[[Jump], Tensor]] = {
    "paper": paper,
    "transport": transport,
    "delta": delta,
}

#: the weights that an estimator uses where the configuration names none
DEFAULT_WEIGHTS = {"paper": "least_squares", "transport": "affine", "delta": "affine"}
