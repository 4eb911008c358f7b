"""Principal components of keys: few numbers whose distances never exceed the keys' own."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from redi.lazy import Tensor, torch


@dataclass(frozen=True)
class Projection:
    """Centring and an orthonormal basis, fitted on a sample of keys."""

    mean: Tensor  # (D,) float32
    basis: Tensor  # (width, D) float32: orthonormal rows, then zeros in place of the rest's length

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
        basis = torch.zeros(width, sample.shape[1])
        basis[:kept] = torch.linalg.qr(directions).Q.T
        return Projection(mean, basis)

    def __call__(self, keys: Tensor) -> Tensor:
        """Keys (n, D) to (n, width): the components, and the length of what they leave out.

        The distance of two results is at most that of the keys: what is left out of two keys
        differs at least by the difference of its lengths.
        """
        centred = keys - self.mean
        found = centred @ self.basis.T
        numbers = found.numpy()  # NumPy is quicker than PyTorch where there is little to compute
        kept = np.einsum("ij,ij->i", numbers, numbers)
        lengths = torch.linalg.vector_norm(centred, dim=1).numpy()
        numbers[:, -1] = np.sqrt(np.maximum(lengths * lengths - kept, 0))
        return found
