"""Kernel ridge regression in closed form, with exact leave-one-out residuals."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

KERNELS = ("gaussian", "laplacian", "linear")


@dataclass(frozen=True)
class Choice:
    """A kernel, its width as a multiple of the median distance, its ridge (the diagonal is 1)."""

    kernel: str
    width: float
    ridge: float


def affinity(left: Tensor, right: Tensor, kernel: str, width: float) -> Tensor:
    """Kernel values (B, K) of centred inputs (B, F) and (K, F), plus 1, which fits the mean.

    At distance `d`, `gaussian`: `exp(-d^2 / 2 w^2)`; `laplacian`: `exp(-d / w)`; `linear`: the
    inner product over `w^2`. `width` is absolute.
    """
    left, right = left.double(), right.double()
    inner = left @ right.mT
    if kernel == "linear":
        return 1 + inner / width**2
    norms = left.square().sum(1)[:, None] + right.square().sum(1)[None]
    squared = (norms - 2 * inner).clamp_min(0)
    if kernel == "gaussian":
        return 1 + torch.exp(squared / (-2 * width**2))
    if kernel == "laplacian":
        return 1 + torch.exp(squared.sqrt() / -width)
    raise ValueError(f"kernel {kernel!r} is unknown; use one of {', '.join(KERNELS)}")


def median_distance(inputs: Tensor) -> float:
    """Median distance between different rows (K, F); 1 where all rows are equal."""
    gaps = torch.pdist(inputs.double())
    gaps = gaps[gaps > 0]
    return float(gaps.median()) if len(gaps) else 1.0


@dataclass(frozen=True)
class KernelRidge:
    """`f(x) = k(x, X) (k(X, X) + ridge I)^-1 Y`, all outputs at once."""

    centre: Tensor  # (F,)
    inputs: Tensor  # (K, F) centred
    coefficients: Tensor  # (K, D)
    choice: Choice
    scale: float  # median distance of the inputs

    def __call__(self, features: Tensor) -> Tensor:
        """Features (B, F) to outputs (B, D), float64."""
        width = self.choice.width * self.scale
        weights = affinity(features - self.centre, self.inputs, self.choice.kernel, width)
        return weights @ self.coefficients.double()

    def lipschitz(self) -> float:
        """A Lipschitz constant of the map, Euclidean norms.

        A Gaussian has slope at most `exp(-1/2) / w`, so `k(x, X)` moves by at most `sqrt(K)` times
        that, and the coefficients act with their spectral norm (theory.md section 6).
        """
        width = self.choice.width * self.scale
        coefficients = self.coefficients.double()
        if self.choice.kernel == "linear":
            slopes = self.inputs.double().mT @ coefficients / width**2  # (F, D)
            return float(torch.linalg.matrix_norm(slopes, ord=2))
        slope = torch.e**-0.5 / width if self.choice.kernel == "gaussian" else 1 / width
        norm = float(torch.linalg.matrix_norm(coefficients, ord=2))
        return slope * len(self.inputs) ** 0.5 * norm


def fit_kernel(
    features: Tensor, targets: Tensor, choices: list[Choice]
) -> tuple[KernelRidge, Tensor, dict[Choice, float]]:
    """Fit with the choice of the least leave-one-out error.

    features (K, F), targets (K, D). Returns the regression, its leave-one-out predictions (K, D)
    and the mean squared leave-one-out error of every choice. With `A = k + ridge I`, the left-out
    residual of row i is `(A^-1 Y)_i / (A^-1)_ii`: exact, without fitting again.
    """
    centre = features.double().mean(0)
    inputs = features.double() - centre
    targets = targets.double()
    scale = median_distance(inputs)
    errors: dict[Choice, float] = {}
    best: tuple[float, Choice, Tensor, Tensor] | None = None
    for kernel, width in dict.fromkeys((c.kernel, c.width) for c in choices):
        values, vectors = torch.linalg.eigh(affinity(inputs, inputs, kernel, width * scale))
        rotated = vectors.mT @ targets
        for choice in choices:
            if (choice.kernel, choice.width) != (kernel, width):
                continue
            shrink = 1 / (values.clamp_min(0) + choice.ridge)
            coefficients = vectors @ (shrink[:, None] * rotated)
            diagonal = (vectors.square() * shrink).sum(1)
            residuals = coefficients / diagonal[:, None]
            errors[choice] = float(residuals.square().mean())
            if best is None or errors[choice] < best[0]:
                best = errors[choice], choice, coefficients, residuals
    if best is None:
        raise ValueError("fit_kernel needs at least one choice")
    _, choice, coefficients, residuals = best
    fitted = KernelRidge(centre, inputs.float(), coefficients.float(), choice, scale)
    return fitted, targets - residuals, errors
