"""The Lightning callback that drives all chosen metrics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lightning import Callback

from redi.metrics.base import Fields, Metric
from redi.metrics.batch import Table


class Measure(Callback):
    """Measures each evaluated batch, and at the end turns columns into the fields of a point.

    Columns are gathered over processes and ordered by query, so points do not depend on the number
    of processes.
    """

    def __init__(self, metrics: Sequence[Metric]) -> None:
        self.metrics = metrics

    def on_test_batch_end(
        self, trainer: Any, module: Any, outputs: Any, batch: Any, index: int, loader: int = 0
    ) -> None:
        for metric in self.metrics:
            for entry, columns in metric.measure(module.result).items():
                module.table.add(entry, module.result.indices, columns)

    def summarise(self, table: Table, entry: str) -> Fields:
        """What all metrics make of an entry."""
        fields: Fields = {}
        for metric in self.metrics:
            fields |= metric.summarise(table, entry)
        return fields

    @property
    def accuracies(self) -> dict[str, float]:
        """The evaluator's own accuracy on real pictures, where some metric loaded it."""
        found = [m.evaluator for m in self.metrics if "evaluator" in m.needs]  # type: ignore[attr-defined]
        return found[0].judge.accuracies if found else {}
