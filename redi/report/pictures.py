"""What was measured on every picture of a run, and the resampled scores of whole sets."""

from __future__ import annotations

from collections import defaultdict
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from redi.parquet import read_table

PER_IMAGE, DRAWS = "per_image.parquet", "draws.parquet"
RUN = "run"  # the column that says, in a collection, which run a row is of
_NEEDED = {
    PER_IMAGE: {"entry": "text", "query": "number", "noise": "number", "prompt": "text"},
    DRAWS: {"entry": "text", "quality": "text", "value": "number"},
}
_FIX = "run the evaluation again"


class Pictures:
    """`per_image.parquet` and `draws.parquet` of a run, read when first asked.

    In the folder of a collection they are the rows of the run `name`.
    """

    def __init__(self, folder: Path, name: str | None = None) -> None:
        self.folder, self.name = folder, name

    def __bool__(self) -> bool:
        return self._there

    @cached_property
    def _there(self) -> bool:
        return self.table(PER_IMAGE) is not None if self.name else self._path(PER_IMAGE).is_file()

    def table(self, file: str) -> pa.Table | None:
        """The run's rows of one of the two files, None where it has none."""
        if not self._path(file).is_file():
            return None
        needed = _NEEDED[file] if self.name is None else {RUN: "text", **_NEEDED[file]}
        table = read_table(self._path(file), needed, _FIX)
        if self.name is None:
            return table
        table = table.filter(pc.equal(table[RUN], self.name)).drop_columns(RUN)
        empty = [n for n in table.column_names if table[n].null_count == len(table)]
        return table.drop_columns(empty) if len(table) else None

    def _path(self, file: str) -> Path:
        return self.folder / file

    @cached_property
    def columns(self) -> dict[str, list[Any]]:
        """Every column, rows in the order of the file."""
        table = self.table(PER_IMAGE)
        return {} if table is None else table.to_pydict()

    @cached_property
    def rows(self) -> dict[str, dict[tuple[int, int], int]]:
        """Row numbers by entry, then by query and noise."""
        found: dict[str, dict[tuple[int, int], int]] = defaultdict(dict)
        keys = zip(*(self.columns[name] for name in ("entry", "query", "noise")), strict=True)
        for row, (entry, query, noise) in enumerate(keys):
            found[entry][query, noise] = row
        return found

    @cached_property
    def prompts(self) -> tuple[tuple[int, str], ...]:
        """Number and text of each query prompt."""
        pairs = zip(self.columns["query"], self.columns["prompt"], strict=True)
        return tuple(sorted(set(pairs)))

    def value(self, entry: str, query: int, noise: int, column: str) -> Any:
        """One cell, None where there is none."""
        row = self.rows.get(entry, {}).get((query, noise))
        return None if row is None or column not in self.columns else self.columns[column][row]

    def by_prompt(self, entry: str, column: str) -> np.ndarray | None:
        """Means over each prompt's noises (P,), prompts in order; None without such values."""
        values: dict[int, list[float]] = defaultdict(list)
        if column not in self.columns:
            return None
        for (query, _), row in self.rows.get(entry, {}).items():
            if self.columns[column][row] is not None:
                values[query].append(self.columns[column][row])
        return np.array([np.mean(values[query]) for query in sorted(values)]) if values else None

    @cached_property
    def _draws(self) -> dict[tuple[str, str], np.ndarray]:
        table = self.table(DRAWS)
        found: dict[tuple[str, str], list[float]] = defaultdict(list)
        if table is not None:
            columns = table.to_pydict()
            names = ("entry", "quality", "value")
            for entry, quality, value in zip(*(columns[name] for name in names), strict=True):
                found[entry, quality].append(value)
        return {key: np.array(values) for key, values in found.items()}

    def draws(self, entry: str, quality: str) -> np.ndarray | None:
        """Resampled scores (B,) of an entry's whole set; those of two entries are paired."""
        return self._draws.get((entry, quality))
