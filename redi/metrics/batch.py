"""What metrics measure: one batch of finished pictures, and the table that all batches fill."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from redi.lazy import Tensor

if TYPE_CHECKING:
    from redi.embedded.captions import Composition
    from redi.methods.solve import Outcome

#: the entry that every other one is held against
FULL = "full"
#: the entry whose queries start from another noise, so that no latents are comparable
OTHER_NOISE = "other_noise"

Columns = dict[str, np.ndarray]


@dataclass(frozen=True)
class BatchResult:
    """What all entries of a run made of one batch of queries; `full` is always there."""

    indices: list[int]
    prompts: list[str]
    scenes: list[Composition] | None
    outcomes: dict[str, Outcome]
    images: dict[str, Tensor]  # (B, 3, H, W) in [-1, 1]
    value_step: int
    #: latents of the converged run (B, C, H, W), where one is wanted
    converged: Tensor | None = None
    #: features (B, D) by extractor and entry, computed when the first metric asks for them
    features: dict[tuple[str, str], Tensor] = field(default_factory=dict)


@dataclass
class Table:
    """Per-picture columns by entry, rows keyed by query index."""

    rows: dict[str, dict[int, dict[str, Any]]] = field(default_factory=dict)
    #: rows in a row that belong to one prompt
    repeats: int = 1

    def add(self, entry: str, indices: list[int], columns: Columns) -> None:
        for name, values in columns.items():
            if len(values) != len(indices):
                raise ValueError(f"column {name} has {len(values)} values for {len(indices)} rows")
            for index, value in zip(indices, values, strict=True):
                self.rows.setdefault(entry, {}).setdefault(index, {})[name] = value

    def merge(self, other: Table) -> None:
        for entry, rows in other.rows.items():
            for index, row in rows.items():
                self.rows.setdefault(entry, {}).setdefault(index, {}).update(row)

    def column(self, entry: str, name: str) -> np.ndarray | None:
        """Values in query order, or nothing where the entry does not have the column."""
        rows = self.rows[entry]
        values = [rows[index].get(name) for index in sorted(rows)]
        return None if any(value is None for value in values) else np.array(values)

    def by_prompt(self, entry: str, name: str) -> np.ndarray | None:
        """Means over each prompt's noises (P,), so that intervals are over prompts.

        Of `correct_` columns, prompts that do not say the attribute (NaN) are left out: the same
        ones for every entry. None where fewer than two prompts are left.
        """
        values = self.column(entry, name)
        if values is None:
            return None
        means = values.reshape(-1, self.repeats).mean(1)
        said = means[[not is_unsaid(name, value) for value in means]]
        return said if len(said) > 1 else None


def is_unsaid(column: str, value: float) -> bool:
    """Whether a prompt does not say the attribute that a `correct_` column is about."""
    return column.startswith("correct_") and bool(np.isnan(value))
