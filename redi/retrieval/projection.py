"""Principal components of keys: few numbers whose distances never exceed the keys' own."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Projection:
    """Centring and an orthonormal basis, fitted on a sample of keys."""

    mean: Tensor  # (D,) float32
    basis: Tensor  # (D, d) float32, orthonormal columns

    @staticmethod
    def fit(sample: Tensor, width: int) -> Projection:
        """From keys (n, D): the first `width - 1` principal components (fewer for small samples).

        Found through the n x n Gram matrix, since keys have far more dimensions than a sample.
        """
        mean = sample.mean(0)
        centred = sample - mean
        values, vectors = torch.linalg.eigh((centred @ centred.T).double())
        kept = int((values > 1e-7 * values[-1].clamp_min(1e-30)).sum())
        kept = max(1, min(kept, width - 1, sample.shape[1]))
        directions = centred.T @ vectors[:, -kept:].flip(1).float()
        basis = torch.zeros(sample.shape[1], width - 1)
        basis[:, :kept] = torch.linalg.qr(directions).Q
        return Projection(mean, basis)

    def __call__(self, keys: Tensor) -> Tensor:
        """Keys (n, D) to (n, width): the components, and the length of what they leave out.

        The distance of two results is at most that of the keys: what is left out of two keys
        differs at least by the difference of its lengths.
        """
        centred = keys - self.mean
        components = centred @ self.basis
        rest = centred.square().sum(1) - components.square().sum(1)
        return torch.cat([components, rest.clamp_min(0).sqrt()[:, None]], 1)
