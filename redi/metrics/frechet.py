"""Distances between two sets of features, in float64: Fréchet and kernel (KID).

A feature set is (N, D), one row per picture, from any extractor; which one, and how pictures were
resized for it, is what gives a distance its name ("FID" means Inception by the clean-fid protocol).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

from redi.lazy import linalg

_BLOCK = 1024  # rows of a kernel matrix held at once


@dataclass(frozen=True)
class Gaussian:
    """Mean (D,) and unbiased covariance (D, D) of `count` feature rows, float64."""

    mean: np.ndarray
    covariance: np.ndarray
    count: int

    @cached_property
    def root(self) -> np.ndarray:
        """Symmetric square root of the covariance (D, D)."""
        values, vectors = linalg.eigh(self.covariance)
        return (vectors * np.sqrt(values.clip(min=0))) @ vectors.T


def fit_gaussian(features: ArrayLike, allow_few: bool = False) -> Gaussian:
    """The Gaussian of a feature set (N, D).

    With fewer rows than features the covariance is singular and a Fréchet distance mostly measures
    the count; that is refused with ValueError unless `allow_few`.
    """
    rows = feature_rows("features", features)
    count, dimension = rows.shape
    if count < 2:
        raise ValueError(f"features has {count} rows; a covariance needs at least 2 images")
    if count < dimension and not allow_few:
        raise ValueError(
            f"features has {count} images for {dimension} feature dimensions; "
            f"give at least {dimension} images, use KID, or set allow_few=True"
        )
    mean = rows.mean(0)
    centred = rows - mean
    return Gaussian(mean, centred.T @ centred / (count - 1), count)


def frechet_distance(a: Gaussian, b: Gaussian) -> float:
    """|m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)), the squared 2-Wasserstein distance.

    (Dowson and Landau, 1982; Heusel et al., 2017.) The trace of the root equals the sum of the
    singular values of C_a^(1/2) C_b^(1/2), which stays real and accurate for singular covariances.
    """
    if a.mean.shape != b.mean.shape:
        raise ValueError(
            f"feature dimensions are {a.mean.size} and {b.mean.size}; use one extractor for both"
        )
    cross = linalg.svdvals(a.root @ b.root).sum()
    shift = float(np.square(a.mean - b.mean).sum())
    return shift + float(np.trace(a.covariance) + np.trace(b.covariance) - 2 * cross)


def kernel_distance(a: ArrayLike, b: ArrayLike, among_b: float | None = None) -> float:
    """Kernel distance (KID): unbiased squared MMD under the kernel (x.y / D + 1)^3.

    (Binkowski et al., 2018.) It has no bias in the number of images, so it suits small samples; it
    can be slightly negative. All rows are used at once instead of random subsets. `among_b` is
    `mean_kernel(b)` where it is known already.
    """
    first, second = feature_rows("a", a), feature_rows("b", b)
    if first.shape[1] != second.shape[1]:
        raise ValueError(
            f"feature dimensions are {first.shape[1]} and {second.shape[1]}; "
            "use one extractor for both"
        )
    if min(len(first), len(second)) < 2:
        raise ValueError(
            f"feature sets have {len(first)} and {len(second)} rows; KID needs at least 2 of each"
        )
    between = _kernel_sum(first, second) / (len(first) * len(second))
    among = mean_kernel(second) if among_b is None else among_b
    return mean_kernel(first) + among - 2 * between


def mean_kernel(rows: np.ndarray) -> float:
    """Mean kernel value over pairs of different rows."""
    diagonal = ((np.square(rows).sum(1) / rows.shape[1] + 1) ** 3).sum()
    return (_kernel_sum(rows, rows) - float(diagonal)) / (len(rows) * (len(rows) - 1))


def _kernel_sum(a: np.ndarray, b: np.ndarray) -> float:
    blocks = (a[start : start + _BLOCK] for start in range(0, len(a), _BLOCK))
    return float(sum(_kernel(block, b).sum() for block in blocks))


def _kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Kernel values (N, M) of rows (N, D) and (M, D)."""
    return (a @ b.T / a.shape[1] + 1) ** 3


def resampled_kernel_distance(
    a: ArrayLike, b: ArrayLike, among_b: float
) -> Callable[[np.ndarray], float]:
    """`kernel_distance(a[rows], b, among_b)` of any choice of rows (M,), from kernels made once."""
    first, second = feature_rows("a", a), feature_rows("b", b)
    among, between = _kernel(first, first), _kernel(first, second).mean(1)

    def score(rows: np.ndarray) -> float:
        drawn = np.bincount(rows, minlength=len(first)).astype(float)
        pairs = drawn @ among @ drawn - drawn @ among.diagonal()
        count = len(rows)
        return float(pairs / (count * (count - 1)) + among_b - 2 * (drawn @ between) / count)

    return score


def feature_rows(name: str, features: ArrayLike) -> np.ndarray:
    """A feature set (N, D) in float64; refuses another shape and what is not finite."""
    rows = np.asarray(features, np.float64)
    if rows.ndim != 2:
        raise ValueError(f"{name} has shape {rows.shape}; give (images, dimensions)")
    if not np.isfinite(rows).all():
        raise ValueError(f"{name} holds values that are not finite; check the pictures behind it")
    return rows
