"""Metrics of a set of pictures as a whole, by the evaluator's features, against real scenes."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np

from redi.metrics.base import Fields, Metric
from redi.metrics.batch import BatchResult, Columns, Table
from redi.metrics.intervals import bootstrap_statistic
from redi.metrics.needs import EvaluatorFeatures


class SetMetric(Metric):
    """One number of all features; its interval resamples prompts, noises of a prompt together."""

    group, needs = "distribution", ("evaluator",)
    evaluator: EvaluatorFeatures

    def measure(self, batch: BatchResult) -> dict[str, Columns]:
        return self.evaluator.columns(batch)

    @abstractmethod
    def statistic(self, features: np.ndarray) -> float:
        """The score of features (N, D)."""

    def summarise(self, table: Table, entry: str) -> Fields:
        features = table.column(entry, self.evaluator.column)
        if features is None:
            return {}

        def statistic(prompts: np.ndarray) -> float:
            return self.statistic(prompts.reshape(-1, features.shape[1]))

        prompts = features.reshape(len(features) // table.repeats, -1)
        return {self.name: bootstrap_statistic(prompts, statistic)}
