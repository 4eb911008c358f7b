"""Weights over neighbours, fitted on keys and applied to values."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_RIDGE = 1e-3  # of the affine fit, relative to the mean squared distance of the neighbours


def least_squares(query: Tensor, keys: Tensor) -> Tensor:
    """The published weights: `argmin_w |sum_h w_h key_h - query|`, unconstrained.

    query (B, D), keys (B, H, D) -> (B, H). The minimum-norm solution is taken where neighbours
    are linearly dependent. With H = 1 this is the fitted scalar `<key, query> / <key, key>`.
    """
    keys, query = keys.double(), query.double()
    if keys.shape[1] == 1:
        dots = (keys[:, 0] * query).sum(-1) / keys[:, 0].square().sum(-1)
        return dots[:, None]
    return torch.linalg.lstsq(keys.mT, query[..., None], driver="gelsd").solution[..., 0]


def affine(query: Tensor, keys: Tensor) -> Tensor:
    """Least squares with `sum_h w_h = 1` and a small ridge towards equal weights.

    query (B, D), keys (B, H, D) -> (B, H).
    """
    gaps = keys.double() - query.double()[:, None]  # (B, H, D)
    gram = gaps @ gaps.mT  # (B, H, H)
    count = gram.shape[-1]
    scale = gram.diagonal(dim1=-2, dim2=-1).mean(-1)  # (B,)
    ridge = (_RIDGE * scale).clamp_min(torch.finfo(torch.float64).tiny)
    system = gram + ridge[:, None, None] * torch.eye(count, dtype=torch.float64)
    raw = torch.linalg.solve(system, torch.ones(len(gram), count, 1, dtype=torch.float64))[..., 0]
    return raw / raw.sum(-1, keepdim=True)


def softmax(query: Tensor, keys: Tensor) -> Tensor:
    """Weights falling with squared distance, on the scale of the nearest: positive, sum 1.

    query (B, D), keys (B, H, D) -> (B, H).
    """
    squared = (keys.double() - query.double()[:, None]).square().sum(-1)  # (B, H)
    scale = squared.min(-1, keepdim=True).values.clamp_min(torch.finfo(torch.float64).tiny)
    return torch.softmax(-squared / scale, -1)


def uniform(query: Tensor, keys: Tensor) -> Tensor:
    """Equal weights: the plain mean of the neighbours."""
    return torch.full(keys.shape[:2], 1 / keys.shape[1], dtype=torch.float64)


WEIGHTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "least_squares": least_squares,
    "affine": affine,
    "softmax": softmax,
    "uniform": uniform,
}
