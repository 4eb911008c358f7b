"""CMMD to real pictures, on CLIP's features."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from redi.config import Config
from redi.metrics.base import Fields, Metric, Quality, metric
from redi.metrics.batch import BatchResult, Columns, Table
from redi.metrics.needs import ClipFeatures

_SIGMA, _SCALE = 10.0, 1000.0


def cmmd(a: np.ndarray, b: np.ndarray) -> float:
    """CMMD of unit-length CLIP features (N, D) and (M, D) (Jayasumana et al., 2024).

    1000 times the squared MMD under the Gaussian kernel of width 10, pairs of a row with itself
    included, so it is never negative but for rounding.
    """
    first, second = (np.asarray(rows, np.float64) for rows in (a, b))

    def mean(x: np.ndarray, y: np.ndarray) -> float:
        squared = np.square(x).sum(1)[:, None] + np.square(y).sum(1) - 2 * x @ y.T
        return float(np.exp(-squared / (2 * _SIGMA**2)).mean())

    return _SCALE * (mean(first, first) + mean(second, second) - 2 * mean(first, second))


@metric
class Cmmd(Metric):
    """CMMD against `metrics.real_folder` or what belongs to the prompts."""

    name, group, needs = "cmmd", "clip", ("clip",)
    qualities = (Quality("cmmd", "CMMD", higher_is_better=False, place=58),)
    clip: ClipFeatures

    def __init__(self, config: Config, needs: Mapping[str, Any]) -> None:
        super().__init__(config, needs)
        self.real = self.clip.real  # before the run: what is missing is refused at once

    def measure(self, batch: BatchResult) -> dict[str, Columns]:
        return self.clip.columns(batch)

    def summarise(self, table: Table, entry: str) -> Fields:
        features = table.column(entry, self.clip.column)
        return {} if features is None else {"cmmd": cmmd(features, self.real)}
