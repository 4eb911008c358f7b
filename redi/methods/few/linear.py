"""Least squares with a handful of scalars over all pixels of all trajectories, in float64."""

from __future__ import annotations

from collections.abc import Sequence

from redi.lazy import Tensor, torch

_CHUNK = 64  # trajectories that are in memory as rows at once
_RANK = 1e-13  # eigenvalues below this share of the largest are directions that do not exist


def inner_products(rows: Sequence[Tensor]) -> Tensor:
    """Means over all pixels of the products of any two of the tensors (n, n), all (K, C, H, W)."""
    total = torch.zeros(len(rows), len(rows), dtype=torch.float64, device=rows[0].device)
    for first in range(0, len(rows[0]), _CHUNK):
        flat = torch.stack([row[first : first + _CHUNK].double().flatten() for row in rows])
        total += flat @ flat.mT
    return total / rows[0].numel()


def solve(gram: Tensor, cross: Tensor) -> Tensor:
    """The least-norm solution of `gram w = cross`, columns scaled to one length: (n,) or (n, m).

    Features that repeat one another share their weight.
    """
    length = gram.diagonal().clamp_min(1e-300).sqrt()
    scaled = gram / length / length[:, None]
    values, vectors = torch.linalg.eigh(scaled)
    kept = values > _RANK * values[-1]
    inverse = torch.where(kept, 1 / values.where(kept, torch.ones_like(values)), 0.0)
    columns = cross.reshape(len(cross), -1) / length[:, None]
    found = vectors @ (inverse[:, None] * (vectors.mT @ columns)) / length[:, None]
    return found.reshape(cross.shape)


def least_squares(features: Sequence[Tensor], target: Tensor) -> Tensor:
    """Weights (n,) with which the features (K, C, H, W) come nearest to the target."""
    products = inner_products([*features, target])
    return solve(products[:-1, :-1], products[:-1, -1])


def residual(products: Tensor, features: Sequence[int], target: int) -> float:
    """Mean square that the features leave of a target; all are rows of `inner_products`."""
    chosen = list(features)
    cross = products[chosen, target]
    weights = solve(products[chosen][:, chosen], cross)
    return max(float(products[target, target] - weights @ cross), 0.0)
