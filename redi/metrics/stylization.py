"""Was the content kept, was the style taken: shares of attributes that the evaluator sees."""

from __future__ import annotations

import numpy as np

from redi.config import Config
from redi.errors import UsageError
from redi.metrics.base import Fields, Metric, Quality, metric
from redi.metrics.batch import BatchResult, Columns, Table
from redi.metrics.intervals import bootstrap_mean

_SCORES = {
    "content_score": ("object", "background", "size", "place"),
    "style_score": ("style",),
}


@metric
class Stylization(Metric):
    """Made of the columns that prompt fidelity measures."""

    name = "stylization"
    qualities = (
        Quality("content_score", "content score", place=52),
        Quality("style_score", "style score", place=53),
    )

    @classmethod
    def check(cls, config: Config) -> None:
        if not ("prompt" in config.metrics.hooks and config.data.late_style):
            raise UsageError(
                "metrics.hooks has 'stylization', which needs data.late_style=true and the hook "
                "'prompt': add them or leave it out"
            )

    def measure(self, batch: BatchResult) -> dict[str, Columns]:
        return {}

    def summarise(self, table: Table, entry: str) -> Fields:
        fields: Fields = {}
        for name, attributes in _SCORES.items():
            columns = [table.by_prompt(entry, f"correct_{each}") for each in attributes]
            known = [column for column in columns if column is not None]
            if len(known) == len(attributes):
                shares = np.mean(known, axis=0)
                fields[name] = bootstrap_mean(shares, resamples=self.resamples)
        return fields
