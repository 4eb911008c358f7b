"""Reading a knowledge base through memory maps."""

from __future__ import annotations

import hashlib
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from safetensors import safe_open
from torch import Tensor

from redi.errors import UsageError
from redi.files import sha256
from redi.knowledge_base.manifest import Manifest
from redi.knowledge_base.verify import verify
from redi.knowledge_base.writer import committed, journal_path


class KnowledgeBase:
    """The first `count` trajectories of a knowledge base (all complete shards by default)."""

    def __init__(self, root: Path, count: int | None = None, hashes: bool = True) -> None:
        self.root, self.manifest = root, Manifest.read(root)
        available = complete_count(root, self.manifest)
        if available == 0:
            raise UsageError(f"kb.dir={str(root)!r} has no complete shard: run 'redi kb build'")
        self.count = available if count is None else count
        if self.count < 1:
            raise UsageError(f"kb.size={count} is too small: use at least 1")
        if self.count > available:
            raise UsageError(
                f"kb.size={count} is more than the {available} trajectories in "
                f"{str(root)!r}: run 'redi kb build' with this size or ask for fewer"
            )
        self.shards = range(self.manifest.shards(self.count))
        verify(root, self.shards, hashes)

    def __len__(self) -> int:
        return self.count

    @cached_property
    def prompts(self) -> list[str]:
        return self._table("prompt")

    @cached_property
    def noise_ids(self) -> np.ndarray:
        """Noise id of each trajectory, int64 (count,)."""
        return np.array(self._table("noise_id"), np.int64)

    @cached_property
    def content_hash(self) -> str:
        """One hash over the manifest's identity and the journals of the shards in use."""
        journals = "".join(sha256(journal_path(self.root, shard)) for shard in self.shards)
        text = self.manifest.digest + journals + str(self.count)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def disk_bytes(self) -> int:
        """Bytes on disk of the shards in use."""
        files = [f for s in self.shards for f in self.root.glob(f"*/{s:05d}.*")]
        return sum(file.stat().st_size for file in files)

    def has(self, group: str, name: str) -> bool:
        return any((c.group, c.name) == (group, name) for c in self.manifest.columns)

    def column(self, group: str, name: str) -> Tensor:
        """A whole column (count, ...), copied into memory."""
        parts = [self._open(shard, group).get_tensor(name) for shard in self.shards]
        return torch.cat(parts)[: self.count]

    def gather(self, group: str, name: str, rows: Tensor) -> Tensor:
        """Rows of a column by trajectory index: (..., *shape) for `rows` of shape (...)."""
        flat = rows.flatten().tolist()
        size = self.manifest.shard_size
        slices = [self._open(i // size, group).get_slice(name)[i % size] for i in flat]
        return torch.stack(slices).unflatten(0, tuple(rows.shape))

    @cached_property
    def _handles(self) -> dict[tuple[int, str], safe_open]:
        return {}

    def _open(self, shard: int, group: str) -> safe_open:
        """A memory-mapped shard file, kept open."""
        key = (shard, group)
        if key not in self._handles:
            path = self.root / group / f"{shard:05d}.safetensors"
            if not path.is_file():
                groups = ", ".join(sorted(self.manifest.groups))
                raise UsageError(f"the KB has no {group!r}; it stores {groups}")
            self._handles[key] = safe_open(path, framework="pt")
        return self._handles[key]

    def _table(self, name: str) -> list:
        values: list = []
        for shard in self.shards:
            path = self.root / "prompts" / f"{shard:05d}.parquet"
            values += pq.read_table(path, columns=[name])[name].to_pylist()
        return values[: self.count]


def complete_count(root: Path, manifest: Manifest) -> int:
    """Trajectories in the unbroken run of complete shards from the first."""
    shard = 0
    while committed(root, shard):
        shard += 1
    return shard * manifest.shard_size
