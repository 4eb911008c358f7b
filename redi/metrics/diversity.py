"""How much the pictures of one prompt differ from noise to noise."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from redi.config import Config
from redi.errors import UsageError
from redi.metrics.base import Fields, Metric, Quality, metric
from redi.metrics.batch import BatchResult, Columns, Table
from redi.metrics.intervals import bootstrap_mean
from redi.metrics.needs import EvaluatorFeatures


def pairwise_distance(features: ArrayLike) -> np.ndarray:
    """Mean Euclidean distance of a prompt's pictures from each other, float64 (P,).

    `features` is (P, R, D): P prompts, R >= 2 pictures of each, D features. Equal pictures give 0;
    unit-length features give at most 2.
    """
    rows = np.asarray(features, np.float64)
    if rows.ndim != 3 or rows.shape[1] < 2:
        raise ValueError(
            f"features have shape {rows.shape}; give (prompts, pictures of each, dimensions) "
            "with at least 2 pictures of each prompt"
        )
    first, second = np.triu_indices(rows.shape[1], 1)
    gaps = rows[:, first] - rows[:, second]  # (P, pairs, D)
    return np.sqrt(np.square(gaps).sum(-1)).mean(1)


@metric
class Diversity(Metric):
    """Mean pairwise feature distance of a prompt's pictures over its noises."""

    name, needs = "diversity", ("evaluator",)
    qualities = (Quality("diversity", "diversity", place=51),)
    evaluator: EvaluatorFeatures

    @classmethod
    def check(cls, config: Config) -> None:
        if config.data.repeats < 2:
            raise UsageError(
                f"data.repeats={config.data.repeats} gives each prompt one picture, and "
                "'diversity' compares several: use data.repeats=3 or leave it out of metrics.hooks"
            )

    def measure(self, batch: BatchResult) -> dict[str, Columns]:
        return self.evaluator.columns(batch)

    def summarise(self, table: Table, entry: str) -> Fields:
        features = table.column(entry, self.evaluator.column)
        if features is None:
            return {}
        distances = pairwise_distance(features.reshape(-1, table.repeats, features.shape[1]))
        return {"diversity": bootstrap_mean(distances, resamples=self.resamples)}
