"""Metrics of a set of pictures as a whole, by the evaluator's features, against real scenes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable

import numpy as np

from redi.metrics.base import Fields, Metric
from redi.metrics.batch import BatchResult, Columns, Table
from redi.metrics.frechet import feature_rows
from redi.metrics.intervals import bootstrap_choice
from redi.metrics.needs import EvaluatorFeatures


class SetMetric(Metric):
    """One number of all features; its interval resamples prompts, noises of a prompt together."""

    group, needs = "distribution", ("evaluator",)
    evaluator: EvaluatorFeatures

    def measure(self, batch: BatchResult) -> dict[str, Columns]:
        return self.evaluator.columns(batch)

    @abstractmethod
    def scorer(self, features: np.ndarray) -> Callable[[np.ndarray], float]:
        """How any choice of rows (M,) of features (N, D) scores; resampling asks many times."""

    def summarise(self, table: Table, entry: str) -> Fields:
        found = table.column(entry, self.evaluator.column)
        if found is None:
            return {}
        features = feature_rows("features", found)
        score, rows = self.scorer(features), np.arange(len(features))
        prompts = rows.reshape(-1, table.repeats)
        return {
            self.name: bootstrap_choice(len(prompts), lambda drawn: score(prompts[drawn].ravel()))
        }
