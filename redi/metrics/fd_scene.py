"""FD-scene: Fréchet distance of the evaluator's features to those of real scenes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import numpy as np

from redi.config import Config
from redi.errors import UsageError
from redi.metrics.base import ALWAYS, Fields, Quality, metric
from redi.metrics.batch import Table
from redi.metrics.frechet import Gaussian, fit_gaussian, frechet_distance
from redi.metrics.sets import SetMetric


@metric
class FDScene(SetMetric):
    """Not comparable with FID, which is Inception's."""

    name = "fd_scene"
    qualities = (
        Quality(
            "fd_scene",
            "FD-scene",
            higher_is_better=False,
            shown=ALWAYS,
            place=30,
            headline=True,
            loss=0.05,
            relative_loss=True,
        ),
    )

    def __init__(self, config: Config, needs: Mapping[str, Any]) -> None:
        super().__init__(config, needs)
        pictures = config.data.num_queries * config.data.repeats
        if pictures < self.evaluator.judge.dimension and not config.metrics.allow_few:
            raise UsageError(
                f"data.num_queries={pictures} is fewer than the {self.evaluator.judge.dimension} "
                "features of FD-scene: use more queries, metrics.allow_few=true, or leave "
                "'distribution' out of metrics.hooks"
            )

    @cached_property
    def real(self) -> Gaussian:
        return fit_gaussian(self.evaluator.real)

    def scorer(self, features: np.ndarray) -> Callable[[np.ndarray], float]:
        return lambda rows: frechet_distance(fit_gaussian(features[rows], True), self.real)

    def summarise(self, table: Table, entry: str) -> Fields:
        fields = super().summarise(table, entry)
        if fields:
            fields["fd_scene_count"] = len(table.rows[entry])
            fields["fd_scene_real_count"] = len(self.evaluator.real)
        return fields
