"""Reading a knowledge base: a snapshot of the shards that were complete when it was opened."""

from __future__ import annotations

import hashlib
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from redi.errors import UsageError
from redi.files import sha256
from redi.knowledge_base.arrays import ArrayFiles
from redi.knowledge_base.journal import all_shards, journal_path, prefix
from redi.knowledge_base.manifest import Column, Manifest
from redi.knowledge_base.precision import SCALE, decode
from redi.knowledge_base.steps import step_group, step_of
from redi.knowledge_base.verify import check_files
from redi.knowledge_base.writer import Entry


class KnowledgeBase:
    """The first `count` trajectories of a knowledge base (all complete shards by default)."""

    def __init__(self, root: Path, count: int | None = None, hashes: bool = True) -> None:
        self.root, self.manifest = root, Manifest.read(root)
        journals = prefix(root, self.manifest.shard_size)
        available = sum(journal.rows for journal in journals)
        if available == 0:
            raise UsageError(f"kb.dir={str(root)!r} has no complete shard: {_way_on(root)}")
        if self.manifest.origin is not None and available != self.manifest.origin["rows"]:
            raise UsageError(
                f"kb.dir={str(root)!r} is a subset that was interrupted at {available} of "
                f"{self.manifest.origin['rows']} trajectories: run the same command again"
            )
        self.count = available if count is None else count
        if self.count < 1:
            raise UsageError(f"kb.size={count} is too small: use at least 1")
        if self.count > available:
            raise UsageError(
                f"kb.size={count} is more than the {available} trajectories in "
                f"{str(root)!r}: run 'redi kb build' with this size or ask for fewer"
            )
        self.shards = range(self.manifest.shards(self.count))
        self.journals = journals[: len(self.shards)]
        for journal in self.journals:
            check_files(root, journal, hashes)
        self._columns = {(c.group, c.name): c for c in self.manifest.columns}

    def __len__(self) -> int:
        return self.count

    @cached_property
    def prompts(self) -> list[str]:
        return self._table("prompt")

    @cached_property
    def indices(self) -> list[int]:
        """Number of each trajectory in the recipe that it was made by."""
        return self._table("index")

    @cached_property
    def noise_ids(self) -> np.ndarray:
        """Noise id of each trajectory, int64 (count,)."""
        return np.array(self._table("noise_id"), np.int64)

    def entries(self, rows: list[int]) -> list[Entry]:
        """Rows of the prompt table."""
        return [Entry(self.indices[r], self.prompts[r], int(self.noise_ids[r])) for r in rows]

    @cached_property
    def content_hash(self) -> str:
        """One hash over the manifest's identity and the journals of the shards in use."""
        journals = "".join(sha256(journal_path(self.root, shard)) for shard in self.shards)
        text = self.manifest.digest + journals + str(self.count)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def disk_bytes(self) -> int:
        """Bytes on disk of the shards in use."""
        return sum(journal.bytes for journal in self.journals)

    @cached_property
    def partitions(self) -> np.ndarray:
        """Noise partition of each trajectory, int64 (count,); 0 unless the KB has a noise bank."""
        if self.manifest.identity.get("noise_policy") == "bank":
            return self.noise_ids
        return np.zeros(self.count, np.int64)

    @property
    def key_step(self) -> int | None:
        """The step that queries are compared at; None: recorded without one."""
        return self.manifest.identity.get("key_step")

    @cached_property
    def stored_steps(self) -> tuple[int, ...]:
        """Steps whose latents are stored, ascending."""
        steps = (step_of(c.group) for c in self.manifest.columns if c.name == "latents")
        return tuple(sorted(step for step in steps if step is not None))

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """Shape of one trajectory's latents: (C, H, W), or (1, S, C) for tokens."""
        return next(c.shape for c in self.manifest.columns if c.name == "latents")

    def stores(self, step: int, name: str) -> bool:
        """Whether `name` ("latents", "prediction" or "history") is stored after `step` updates."""
        return (step_group(step), name) in self._columns

    def latents(self, step: int, rows: Tensor | None = None) -> Tensor:
        """Latents after `step` updates: float32 (*rows.shape, C, H, W).

        `rows` are trajectory numbers of any shape; None: all, (count, C, H, W).
        """
        return self._state(step, "latents", rows)

    def prediction(self, step: int, rows: Tensor | None = None) -> Tensor:
        """The last noise prediction before the state after `step` updates; shaped as `latents`."""
        return self._state(step, "prediction", rows)

    def history(self, step: int, rows: Tensor | None = None) -> Tensor:
        """What the sampler carries after `step` updates: float32 (*rows.shape, n, C, H, W)."""
        return self._state(step, "history", rows)

    def embeddings(self, rows: Tensor | None = None) -> Tensor:
        """Prompt embeddings: float32 (*rows.shape, E)."""
        if rows is None:
            return self.column("prompt", "embedding")
        return self.gather("prompt", "embedding", rows)

    def _state(self, step: int, name: str, rows: Tensor | None) -> Tensor:
        if not self.stores(step, name):
            known = [s for s in self.stored_steps if self.stores(s, name)]
            raise UsageError(
                f"the KB {str(self.root)!r} stores no {name} after step {step} (stored: "
                f"{', '.join(map(str, known)) or 'none'}): use one of these or build it again"
            )
        group = step_group(step)
        return self.column(group, name) if rows is None else self.gather(group, name, rows)

    def has(self, group: str, name: str) -> bool:
        return (group, name) in self._columns

    def column(self, group: str, name: str, first: int = 0, last: int | None = None) -> Tensor:
        """Rows `first` to `last` (excluded) of a column (n, ...), float32, copied into memory."""
        column = self._column(group, name)
        size, stop = self.manifest.shard_size, self.count if last is None else last
        out = self._empty(column, stop - first)
        views, done = _bytes(out), first
        while done < stop:
            shard, start = divmod(done, size)
            taken = min(size - start, stop - done)
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
        column, size = self._column(group, name), self.manifest.shard_size
        if rows and not 0 <= min(rows) <= max(rows) < self.count:
            raise IndexError(f"rows {min(rows)} to {max(rows)} of {self.count}")
        out = self._empty(column, len(rows))
        for suffix, view in _bytes(out).items():
            width = len(view) // max(1, len(rows))
            for place, row in enumerate(rows):
                shard, first = divmod(row, size)
                array = self._files[self._paths[shard][group]][name + suffix]
                array.read_into(view[place * width : (place + 1) * width], first)
        return out

    @cached_property
    def _files(self) -> ArrayFiles:
        return ArrayFiles()

    @cached_property
    def _paths(self) -> list[dict[str, Path]]:
        return [{n.split("/")[0]: self.root / n for n in j.files} for j in self.journals]

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
        placed = self._files[self._paths[shard][column.group]]
        for suffix, view in out.items():
            array = placed[column.name + suffix]
            width = array.row_bytes
            array.read_into(view[at * width : (at + n) * width], first)

    def _table(self, name: str) -> list:
        import pyarrow.parquet as pq  # 28 MB that a search by keys alone does without

        values: list = []
        for paths in self._paths:
            values += pq.read_table(paths["prompts"], columns=[name])[name].to_pylist()
        return values[: self.count]


def complete_count(root: Path, manifest: Manifest) -> int:
    """Trajectories in the unbroken run of complete shards from the first."""
    return sum(journal.rows for journal in prefix(root, manifest.shard_size))


def _bytes(arrays: dict[str, np.ndarray]) -> dict[str, memoryview]:
    return {suffix: array.reshape(-1).view(np.uint8).data for suffix, array in arrays.items()}


def _way_on(root: Path) -> str:
    shards = all_shards(root)
    if not shards:
        return "run 'redi kb build'"
    return f"it is a part that starts at shard {shards[0]}; 'redi kb merge' it with the others"
