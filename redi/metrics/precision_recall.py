"""Improved precision and recall of a picture set (Kynkäänniemi et al., 2019)."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

from redi.lazy import distance
from redi.metrics.base import FILES, Fields, Quality, metric
from redi.metrics.batch import Table
from redi.metrics.sets import SetMetric

NEIGHBOURS = 3


def radii(features: ArrayLike) -> np.ndarray:
    """Distance of each row (N, D) to its third nearest other row (N,): the set's own manifold."""
    return _third(distance.cdist(features, features))


def _third(distances: np.ndarray) -> np.ndarray:
    return np.partition(distances, NEIGHBOURS, axis=1)[:, NEIGHBOURS]  # the row itself is nearest


def covered(points: ArrayLike, features: ArrayLike, reach: np.ndarray) -> np.ndarray:
    """Which points (M, D) lie within reach (N,) of some row of features (N, D): bool (M,)."""
    return (distance.cdist(points, features) <= reach).any(1)


@metric
class Recall(SetMetric):
    """Share of real scenes that lie within the manifold of the made pictures."""

    name = "recall"
    qualities = (Quality("recall", "recall of real scenes", shown=FILES),)

    def scorer(self, features: np.ndarray) -> Callable[[np.ndarray], float]:
        among = distance.cdist(features, features)
        away = distance.cdist(self.evaluator.real, features)

        def share(rows: np.ndarray) -> float:
            reach = _third(among[np.ix_(rows, rows)])
            return float((away[:, rows] <= reach).any(1).mean())

        return share

    def summarise(self, table: Table, entry: str) -> Fields:
        return super().summarise(table, entry) if len(table.rows[entry]) > NEIGHBOURS else {}


@metric
class Precision(SetMetric):
    """Share of made pictures that lie within the manifold of real scenes."""

    name = "precision"
    qualities = (Quality("precision", "precision to real scenes", shown=FILES),)

    @cached_property
    def reach(self) -> np.ndarray:
        return radii(self.evaluator.real)

    def scorer(self, features: np.ndarray) -> Callable[[np.ndarray], float]:
        inside = covered(features, self.evaluator.real, self.reach)
        return lambda rows: float(inside[rows].mean())

    def summarise(self, table: Table, entry: str) -> Fields:
        return super().summarise(table, entry) if len(self.evaluator.real) > NEIGHBOURS else {}
