"""Was the content kept, was the style taken: shares of attributes that the evaluator sees."""

from __future__ import annotations

import numpy as np

from redi.config import Config
from redi.errors import UsageError
from redi.metrics.base import Fields, Metric, Quality, metric
from redi.metrics.batch import BatchResult, Columns, Table
from redi.metrics.intervals import bootstrap_mean

_SCORES = {
    "content_score": ("object", "second", "background", "kind", "size", "place"),
    "style_score": ("style",),
}


@metric
class Stylization(Metric):
    """Made of the columns that prompt fidelity measures; things unsaid do not count."""

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
            columns = [table.column(entry, f"correct_{each}") for each in attributes]
            known = [column for column in columns if column is not None]
            if len(known) == len(attributes):
                shares = np.ma.masked_invalid(known).mean(0).reshape(-1, table.repeats).mean(1)
                fields[name] = bootstrap_mean(shares.compressed(), resamples=self.resamples)
        return fields
