"""Writing a knowledge base: whole shards, each committed by its journal entry."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import save_file

from redi.files import require_space, sha256, write_durably, write_json
from redi.knowledge_base.manifest import Manifest


@dataclass(frozen=True)
class Entry:
    """One trajectory's row in the prompt table."""

    index: int
    prompt: str
    noise_id: int


def journal_path(root: Path, shard: int) -> Path:
    """The file whose existence makes a shard part of the knowledge base."""
    return root / "journal" / f"{shard:05d}.json"


def committed(root: Path, shard: int) -> bool:
    """Whether a shard was written to the end."""
    return journal_path(root, shard).is_file()


class Writer:
    """Writes shards of one knowledge base; writers of different shards need no lock.

    A shard's files are written under temporary names, synced and renamed, and its journal entry
    with their hashes comes last. Killed at any point, the next writer does that shard again and
    nothing else.
    """

    def __init__(self, root: Path, manifest: Manifest, made_with: dict[str, str]) -> None:
        self.root, self.manifest = root, manifest
        if (root / "manifest.json").is_file():
            manifest.require_same(Manifest.read(root), root)
        else:
            manifest.write(root, made_with)

    def missing(self, count: int) -> list[int]:
        """Shards that a KB of `count` trajectories still needs; refuses a disk that is too full."""
        shards = range(self.manifest.shards(count))
        todo = [shard for shard in shards if not committed(self.root, shard)]
        rows = len(todo) * self.manifest.shard_size
        require_space(self.root, int(1.05 * rows * self.manifest.row_bytes) + 4096 * len(todo))
        return todo

    def write(
        self, shard: int, arrays: dict[tuple[str, str], np.ndarray], entries: list[Entry]
    ) -> None:
        """Write one shard: for each column (group, name) an array of `shard_size` rows."""
        size, files = self.manifest.shard_size, {}
        first = shard * size
        if [entry.index for entry in entries] != list(range(first, first + size)):
            raise ValueError(f"shard {shard} needs the entries {first} to {first + size - 1}")
        for group, columns in self.manifest.groups.items():
            tensors = {}
            for column in columns:
                array = np.ascontiguousarray(arrays[group, column.name], dtype=column.dtype)
                if array.shape != (size, *column.shape):
                    raise ValueError(f"{group}/{column.name} has shape {array.shape}")
                tensors[column.name] = array
            path = self.root / group / f"{shard:05d}.safetensors"
            write_durably(path, partial(save_file, tensors))
            files[str(path.relative_to(self.root))] = path
        table = pa.table(
            {
                "index": pa.array([entry.index for entry in entries], pa.int64()),
                "prompt": pa.array([entry.prompt for entry in entries], pa.string()),
                "noise_id": pa.array([entry.noise_id for entry in entries], pa.int64()),
            }
        )
        path = self.root / "prompts" / f"{shard:05d}.parquet"
        write_durably(path, lambda temporary: pq.write_table(table, temporary))
        files[str(path.relative_to(self.root))] = path
        journal = {
            name: {"bytes": file.stat().st_size, "sha256": sha256(file)}
            for name, file in sorted(files.items())
        }
        write_json(journal_path(self.root, shard), journal)
