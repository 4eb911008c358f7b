"""Weights over neighbours, fitted on keys and applied to values."""

from __future__ import annotations

from collections.abc import Callable

from redi.lazy import Tensor, torch

_KERNEL_RIDGE = 1e-2
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


def kernel(query: Tensor, keys: Tensor) -> Tensor:
    """Kernel ridge regression over the neighbours: what it predicts is `sum_h w_h value_h`.

    Gaussian of twice the median distance between the neighbours, with a constant that is not
    shrunk, so that `sum_h w_h = 1`; query (B, D), keys (B, H, D) -> (B, H). Meant for many
    neighbours.
    """
    keys, query = keys.double(), query.double()
    between = torch.cdist(keys, keys)  # (B, H, H)
    towards = (keys - query[:, None]).norm(dim=-1)  # (B, H)
    count = keys.shape[1]
    apart = between[:, ~torch.eye(count, dtype=torch.bool)] if count > 1 else towards
    width = 2 * apart.median(1).values.clamp_min(torch.finfo(torch.float64).tiny)
    gram = torch.exp(-(between / width[:, None, None]).square() / 2)
    system = gram + _KERNEL_RIDGE * torch.eye(count, dtype=torch.float64)
    values = torch.exp(-(towards / width[:, None]).square() / 2)
    sides = torch.stack([values, torch.ones_like(values)], -1)  # (B, H, 2)
    fitted, constant = torch.linalg.solve(system, sides).unbind(-1)
    missing = (1 - fitted.sum(-1, keepdim=True)) / constant.sum(-1, keepdim=True)
    return fitted + missing * constant


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
    "kernel": kernel,
    "softmax": softmax,
    "uniform": uniform,
}
