"""Rows of a knowledge base's columns and of its prompt table, whatever shards they lie in."""

from __future__ import annotations

from bisect import bisect_right
from functools import cached_property
from itertools import accumulate
from pathlib import Path

import numpy as np

from redi.errors import UsageError
from redi.knowledge_base.arrays import ArrayFiles, Placed
from redi.knowledge_base.journal import PROMPTS, Journal
from redi.knowledge_base.manifest import Column, Manifest
from redi.knowledge_base.precision import SCALE, decode
from redi.knowledge_base.prompts import Entry, read_table
from redi.lazy import Tensor, torch


class Rows:
    """The first `count` rows of the given shards."""

    def __init__(self, root: Path, manifest: Manifest, journals: list[Journal], count: int) -> None:
        self.root, self.manifest, self.journals, self.count = root, manifest, journals, count
        self._firsts = [0, *accumulate(journal.rows for journal in journals)]
        self._columns = {(c.group, c.name): c for c in manifest.columns}

    def __len__(self) -> int:
        return self.count

    @property
    def prompts(self) -> list[str]:
        return self._table["prompt"]

    @property
    def indices(self) -> list[int]:
        """Number of each trajectory in the recipe that it was made by."""
        return self._table["index"]

    @cached_property
    def noise_ids(self) -> np.ndarray:
        """Noise id of each trajectory, int64 (count,)."""
        return np.array(self._table["noise_id"], np.int64)

    def entries(self, rows: list[int]) -> list[Entry]:
        """Rows of the prompt table."""
        return [Entry(self.indices[r], self.prompts[r], int(self.noise_ids[r])) for r in rows]

    def has(self, group: str, name: str) -> bool:
        return (group, name) in self._columns

    def shape(self, group: str, name: str) -> tuple[int, ...]:
        """Shape of one row of a column."""
        return self._column(group, name).shape

    def column(self, group: str, name: str, first: int = 0, last: int | None = None) -> Tensor:
        """Rows `first` to `last` (excluded) of a column (n, ...), float32, copied into memory."""
        column = self._column(group, name)
        stop = self.count if last is None else last
        out = self._empty(column, stop - first)
        views, done = _bytes(out), first
        while done < stop:
            shard, start = self._place(done)
            taken = min(self.journals[shard].rows - start, stop - done)
            self._read(column, shard, start, views, done - first, taken)
            done += taken
        return torch.from_numpy(decode(out, column.dtype))

    def gather(self, group: str, name: str, rows: Tensor) -> Tensor:
        """Rows of a column by trajectory index: float32 (..., *shape) for `rows` of shape (...)."""
        column = self._column(group, name)
        stored = self.stored(group, name, rows.flatten().tolist())
        values = torch.from_numpy(decode(stored, column.dtype))
        return values.reshape(*rows.shape, *column.shape)

    def stored(self, group: str, name: str, rows: list[int]) -> dict[str, np.ndarray]:
        """Rows of a column as they are stored (see `precision.encode`)."""
        column = self._column(group, name)
        if rows and not 0 <= min(rows) <= max(rows) < self.count:
            raise IndexError(f"rows {min(rows)} to {max(rows)} of {self.count}")
        out = self._empty(column, len(rows))
        for suffix, view in _bytes(out).items():
            width, current = len(view) // max(1, len(rows)), -1
            for place in sorted(range(len(rows)), key=rows.__getitem__):  # shard by shard
                shard, first = self._place(rows[place])
                if shard != current:
                    current, array = shard, self._placed(shard, group)[name + suffix]
                array.read_into(view[place * width : (place + 1) * width], first)
        return out

    def _place(self, row: int) -> tuple[int, int]:
        """The shard of a trajectory, and its row there: recordings have shards of any length."""
        shard = bisect_right(self._firsts, row) - 1
        return shard, row - self._firsts[shard]

    @cached_property
    def _names(self) -> list[dict[str, str]]:
        """The files of each shard by group, below the root."""
        return [{name.partition("/")[0]: name for name in j.files} for j in self.journals]

    @cached_property
    def _files(self) -> ArrayFiles:
        return ArrayFiles(self.root)

    def _placed(self, shard: int, group: str) -> dict[str, Placed]:
        """The arrays of a group's file in one shard."""
        name, rows = self._names[shard][group], self.journals[shard].rows
        return self._files.open(name, rows, self.manifest.groups[group])

    def _column(self, group: str, name: str) -> Column:
        if (group, name) not in self._columns:
            known = ", ".join(sorted(f"{g}/{n}" for g, n in self._columns))
            raise UsageError(f"the KB has no {group!r} {name!r}; it stores {known}")
        return self._columns[group, name]

    def _empty(self, column: Column, rows: int) -> dict[str, np.ndarray]:
        out = {"": np.empty((rows, *column.shape), column.dtype)}
        if column.dtype == "int8":
            out[SCALE] = np.empty((rows, *column.shape[:-2]), np.float32)
        return out

    def _read(
        self, column: Column, shard: int, first: int, out: dict[str, memoryview], at: int, n: int
    ) -> None:
        placed = self._placed(shard, column.group)
        for suffix, view in out.items():
            array = placed[column.name + suffix]
            width = array.row_bytes
            array.read_into(view[at * width : (at + n) * width], first)

    @cached_property
    def _table(self) -> dict[str, list]:
        whole: dict[str, list] = {"index": [], "prompt": [], "noise_id": []}
        for names, journal in zip(self._names, self.journals, strict=True):
            for name, values in read_table(self.root, names[PROMPTS], journal.rows).items():
                whole[name] += values
        return {name: values[: self.count] for name, values in whole.items()}


def _bytes(arrays: dict[str, np.ndarray]) -> dict[str, memoryview]:
    return {suffix: array.reshape(-1).view(np.uint8).data for suffix, array in arrays.items()}
