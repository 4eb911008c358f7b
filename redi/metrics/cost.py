"""Network calls and seconds per image, split into network, retrieval and the rest."""

from __future__ import annotations

from typing import Any

import numpy as np

from redi.metrics.base import ALWAYS, FILES, Fields, Metric, Quality, metric
from redi.metrics.batch import FULL, BatchResult, Columns, Table

_NUMBER: dict[str, Any] = {"ranked": False, "margin": False}
_SECONDS = ("seconds_network", "seconds_retrieval", "seconds_rest")


@metric
class Cost(Metric):
    """Counted where the model is called; batches share their seconds evenly."""

    name = "cost"
    qualities = (
        Quality("speedup", "speedup", shown=ALWAYS, place=1, suffix="×", **_NUMBER),
        Quality("seconds_per_image", "ms per image", False, shown=ALWAYS, scale=1000, **_NUMBER),
        *(
            Quality(n, n.replace("_", ", "), False, "s", FILES, column=n, **_NUMBER)
            for n in _SECONDS
        ),
    )

    def measure(self, batch: BatchResult) -> dict[str, Columns]:
        columns, count = {}, len(batch.indices)
        for entry, outcome in batch.outcomes.items():
            cost = outcome.cost
            parts = {
                "seconds_network": cost.network_seconds / count,
                "seconds_retrieval": cost.retrieval_seconds / count,
                "seconds_rest": cost.rest_seconds / count,
            }
            columns[entry] = {name: np.full(count, value) for name, value in parts.items()}
            columns[entry]["calls"] = outcome.calls.astype(float)
        return columns

    def summarise(self, table: Table, entry: str) -> Fields:
        def mean(entry: str, name: str) -> float:
            values = table.column(entry, name)
            assert values is not None
            return float(np.mean(values))

        calls, parts = mean(entry, "calls"), {name: mean(entry, name) for name in _SECONDS}
        seconds = sum(parts.values())
        speedup = mean(FULL, "calls") / calls
        return {"calls": calls, **parts, "seconds_per_image": seconds, "speedup": speedup}
