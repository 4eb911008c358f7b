"""Bootstrap intervals: how far a score would move with another draw of pictures.

Every interval is a pure function of its values and a seed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

_BLOCK = 1 << 22  # resampled values held at once


@dataclass(frozen=True)
class Estimate:
    """A score, its interval, and the number of pictures behind it."""

    mean: float
    low: float
    high: float
    count: int
    #: the resampled scores (resamples,) of a score of the whole set. Equal counts and seeds
    #: resample equal rows, so the draws of two sets of the same prompts are paired.
    draws: tuple[float, ...] = ()


def bootstrap_mean(
    values: ArrayLike, seed: int = 0, resamples: int = 2000, level: float = 0.95
) -> Estimate:
    """Percentile interval (Efron, 1979) of the mean of per-picture values (N,)."""
    column = _checked(values, 1, resamples, level)
    low, high = percentiles(resampled_means(column, seed, resamples), level)
    return Estimate(float(column.mean()), low, high, len(column))


def resampled_means(values: ArrayLike, seed: int = 0, resamples: int = 2000) -> np.ndarray:
    """Means (resamples,) of values (N,) drawn anew; equal N and seed draw equal rows."""
    column = np.asarray(values, np.float64)
    rng, count = np.random.default_rng(seed), len(column)
    rows = max(1, _BLOCK // count)
    return np.concatenate(
        [
            column[rng.integers(count, size=(min(rows, resamples - start), count))].mean(1)
            for start in range(0, resamples, rows)
        ]
    )


def bootstrap_statistic(
    features: ArrayLike,
    statistic: Callable[[np.ndarray], float],
    seed: int = 0,
    resamples: int = 50,
    level: float = 0.95,
) -> Estimate:
    """Interval of a statistic of a feature set (N, D), such as its distance to a reference.

    Resampling repeats pictures, which pushes a Fréchet distance up; the resampled values are
    therefore centred on the estimate. The interval is the spread over draws of N pictures, and
    does not remove the bias that the statistic has at this N.
    """
    rows = _checked(features, 2, resamples, level)
    return bootstrap_choice(len(rows), lambda drawn: statistic(rows[drawn]), seed, resamples, level)


def bootstrap_choice(
    count: int,
    score: Callable[[np.ndarray], float],
    seed: int = 0,
    resamples: int = 50,
    level: float = 0.95,
) -> Estimate:
    """As `bootstrap_statistic`, of a score that is told which of `count` rows are drawn, (N,)."""
    _check_draws(count, resamples, level)
    rng = np.random.default_rng(seed)
    estimate = float(score(np.arange(count)))
    values = np.array(
        [score(rng.integers(count, size=count)) for _ in range(resamples)], np.float64
    )
    values = values - values.mean() + estimate
    low, high = percentiles(values, level)
    return Estimate(estimate, low, high, count, tuple(values.tolist()))


def percentiles(values: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """The ends of the middle `level` of resampled values."""
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _checked(values: ArrayLike, axes: int, resamples: int, level: float) -> np.ndarray:
    array = np.asarray(values, np.float64)
    if array.ndim != axes:
        shape = "(pictures,)" if axes == 1 else "(pictures, dimensions)"
        raise ValueError(f"values have shape {array.shape}; give {shape}")
    if not np.isfinite(array).all():
        bad = int((~np.isfinite(array)).sum())
        raise ValueError(f"values holds {bad} entries that are not finite; leave those out")
    _check_draws(len(array), resamples, level)
    return array


def _check_draws(count: int, resamples: int, level: float) -> None:
    if count < 2:
        raise ValueError(f"values has {count} pictures; an interval needs at least 2")
    if resamples < 2:
        raise ValueError(f"resamples is {resamples}; use at least 2")
    if not 0 < level < 1:
        raise ValueError(f"level is {level}; use a share between 0 and 1, such as 0.95")
