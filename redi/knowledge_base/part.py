"""Some trajectories of a knowledge base, read as one of their own."""

from __future__ import annotations

import hashlib
from functools import cached_property
from pathlib import Path

import numpy as np

from redi.knowledge_base.reader import KnowledgeBase
from redi.lazy import Tensor, torch


class Part(KnowledgeBase):
    """What is left of a KB when others of its trajectories are left out.

    Args:
        rows: trajectories, int64 (n,).
        root: folder for what is made of them; the KB's own files stay where they are.
    """

    def __init__(self, whole: KnowledgeBase, rows: Tensor, root: Path) -> None:
        self.whole, self.rows, self.root = whole, rows, root
        self.manifest, self.count = whole.manifest, len(rows)
        self._columns = whole._columns

    @cached_property
    def content_hash(self) -> str:
        chosen = self.rows.numpy().tobytes()
        return hashlib.sha256(self.whole.content_hash.encode() + chosen).hexdigest()

    def first(self, count: int) -> KnowledgeBase:
        return self if count >= self.count else Part(self.whole, self.rows[:count], self.root)

    @cached_property
    def _table(self) -> dict[str, list]:
        chosen = self.rows.tolist()
        return {name: [values[i] for i in chosen] for name, values in self.whole._table.items()}

    @cached_property
    def partitions(self) -> np.ndarray:
        return self.whole.partitions[self.rows.numpy()]

    def column(self, group: str, name: str, first: int = 0, last: int | None = None) -> Tensor:
        return self.whole.gather(group, name, self.rows[first:last])

    def gather(self, group: str, name: str, rows: Tensor) -> Tensor:
        return self.whole.gather(group, name, self.rows[rows])

    def stored(self, group: str, name: str, rows: list[int]) -> dict[str, np.ndarray]:
        return self.whole.stored(group, name, self.rows[torch.tensor(rows)].tolist())
