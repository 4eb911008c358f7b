"""What was retrieved: how far it is from the query, and which trajectory."""

from __future__ import annotations

from redi.metrics.base import FILES, Fields, Metric, Quality, metric
from redi.metrics.batch import BatchResult, Columns, Table


@metric
class Retrieval(Metric):
    """Distance of the nearest key, and its row in the KB (per picture alone)."""

    name, group = "retrieval", "fidelity"
    qualities = (
        Quality(
            "key_distance",
            "distance of the nearest key",
            False,
            shown=FILES,
            ranked=False,
            column="key_distance",
        ),
    )

    def measure(self, batch: BatchResult) -> dict[str, Columns]:
        columns = {}
        for entry, outcome in batch.outcomes.items():
            if outcome.found is not None:
                columns[entry] = {
                    "key_distance": outcome.found.distances[:, 0].numpy(),
                    "neighbour_row": outcome.found.rows[:, 0].numpy(),
                }
        return columns

    def summarise(self, table: Table, entry: str) -> Fields:
        found = self.mean(table, entry, "key_distance")
        return {} if found is None else {"key_distance": found}
