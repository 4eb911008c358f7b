"""Kernel ridge regression in closed form, with exact left-out residuals."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

from redi.lazy import Tensor, torch
from redi.methods.corrected.groups import all_different, members

KERNELS = ("gaussian", "laplacian", "linear")
_SAMPLE = 1024  # rows whose distances are measured


@dataclass(frozen=True)
class Choice:
    """A kernel, its width as a multiple of the median distance, its ridge (the diagonal is 1)."""

    kernel: str
    width: float
    ridge: float


def affinity(
    left: Tensor, right: Tensor, kernel: str, width: float, right_norms: Tensor | None = None
) -> Tensor:
    """Kernel values (B, K) of centred inputs (B, F) and (K, F), plus 1, which fits the mean.

    `right_norms` (K,), the squared norms of `right`, spares their computation.

    At distance `d`, `gaussian`: `exp(-d^2 / 2 w^2)`; `laplacian`: `exp(-d / w)`; `linear`: the
    inner product over `w^2`. `width` is absolute.
    """
    if right_norms is None:
        right_norms = right.double().square().sum(1)
    norms = left.double().square().sum(1)[:, None] + right_norms[None]
    return _values((left @ right.mT).double(), norms, kernel, width)


def _values(inner: Tensor, norms: Tensor, kernel: str, width: float) -> Tensor:
    """`affinity` from inner products (B, K) and sums of squared norms (B, K)."""
    if kernel == "linear":
        return 1 + inner / width**2
    squared = (norms - 2 * inner).clamp_min(0)
    if kernel == "gaussian":
        return 1 + torch.exp(squared / (-2 * width**2))
    if kernel == "laplacian":
        return 1 + torch.exp(squared.sqrt() / -width)
    raise ValueError(f"kernel {kernel!r} is unknown; use one of {', '.join(KERNELS)}")


def median_distance(inputs: Tensor) -> float:
    """Median distance between different rows (K, F), of the first 1,024; 1 where all are equal."""
    gaps = torch.pdist(inputs[:_SAMPLE].double())
    gaps = gaps[gaps > 0]
    return float(gaps.median()) if len(gaps) else 1.0


@dataclass(frozen=True)
class KernelRidge:
    """`f(x) = k(x, X) (k(X, X) + ridge I)^-1 Y`, all outputs at once."""

    centre: Tensor  # (F,) float32, like all of them
    inputs: Tensor  # (K, F) centred
    coefficients: Tensor  # (K, D)
    choice: Choice
    scale: float  # median distance of the inputs

    def __call__(self, features: Tensor) -> Tensor:
        """Features (B, F) to outputs (B, D), float32."""
        width = self.choice.width * self.scale
        centred = features.float() - self.centre
        weights = affinity(centred, self.inputs, self.choice.kernel, width, self.norms)
        return weights.float() @ self.coefficients

    @cached_property
    def norms(self) -> Tensor:
        """Squared norms of the inputs (K,), float64."""
        return self.inputs.double().square().sum(1)

    def to(self, device: torch.device) -> KernelRidge:
        """The same map on another device."""
        return replace(
            self,
            centre=self.centre.to(device),
            inputs=self.inputs.to(device),
            coefficients=self.coefficients.to(device),
        )

    def lipschitz(self) -> float:
        """A Lipschitz constant of the map, Euclidean norms.

        A Gaussian has slope at most `exp(-1/2) / w`, so `k(x, X)` moves by at most `sqrt(K)` times
        that, and the coefficients act with their spectral norm (redi/theory/PROOF.md, section 9).
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
    features: Tensor, targets: Tensor, choices: list[Choice], groups: Tensor | None = None
) -> tuple[KernelRidge, Tensor, dict[Choice, float]]:
    """One regression from features (K, F) to targets (K, D): see `KernelFit`."""
    return KernelFit(features, groups).to(targets, choices)


class KernelFit:
    """Regressions from one set of features (K, F); every kernel matrix is decomposed once.

    Decompositions are kept, K x K numbers for each kernel and width that was asked for. Rows of
    one group (K,) repeat one another and are left out together; None: no row repeats another.
    """

    def __init__(self, features: Tensor, groups: Tensor | None = None) -> None:
        rows = members(all_different(len(features)) if groups is None else groups)
        self._repeated = [own for own in rows if len(own) > 1]
        self.centre = features.double().mean(0)
        self.inputs = features.double() - self.centre
        self.scale = median_distance(self.inputs)
        norms = self.inputs.square().sum(1)
        self._inner, self._norms = self.inputs @ self.inputs.mT, norms[:, None] + norms
        self._spectra: dict[tuple[str, float], tuple[Tensor, Tensor]] = {}

    def to(
        self, targets: Tensor, choices: list[Choice]
    ) -> tuple[KernelRidge, Tensor, dict[Choice, float]]:
        """Fit targets (K, D) with the choice of the least left-out error.

        Returns the regression, its left-out predictions (K, D) and the mean squared left-out error
        of every choice. With `A = k + ridge I`, the left-out residual of the rows G of a group is
        `((A^-1)_GG)^-1 (A^-1 Y)_G`: exact, without fitting again.
        """
        targets = targets.double()
        errors: dict[Choice, float] = {}
        best: tuple[float, Choice, Tensor, Tensor] | None = None
        for kernel, width in dict.fromkeys((c.kernel, c.width) for c in choices):
            values, vectors = self._spectrum(kernel, width)
            rotated = vectors.mT @ targets
            for choice in choices:
                if (choice.kernel, choice.width) != (kernel, width):
                    continue
                shrink = 1 / (values + choice.ridge)
                coefficients = vectors @ (shrink[:, None] * rotated)
                diagonal = (vectors.square() * shrink).sum(1)
                residuals = coefficients / diagonal[:, None]
                for own in self._repeated:
                    block = (vectors[own] * shrink) @ vectors[own].mT
                    residuals[own] = torch.linalg.solve(block, coefficients[own])
                errors[choice] = float(residuals.square().mean())
                if best is None or errors[choice] < best[0]:
                    best = errors[choice], choice, coefficients, residuals
        if best is None:
            raise ValueError("a kernel regression needs at least one choice")
        _, choice, coefficients, residuals = best
        fitted = KernelRidge(
            self.centre.float(), self.inputs.float(), coefficients.float(), choice, self.scale
        )
        return fitted, targets - residuals, errors

    def _spectrum(self, kernel: str, width: float) -> tuple[Tensor, Tensor]:
        """Eigenvalues (K,), not below zero, and eigenvectors (K, K)."""
        if (kernel, width) not in self._spectra:
            matrix = _values(self._inner, self._norms, kernel, width * self.scale)
            values, vectors = torch.linalg.eigh(matrix)
            self._spectra[kernel, width] = values.clamp_min(0), vectors
        return self._spectra[kernel, width]
