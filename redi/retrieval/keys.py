"""Keys by row, from a knowledge base or an array, never all of them in memory."""

from __future__ import annotations

from math import prod
from typing import Protocol

import numpy as np

from redi.knowledge_base import KnowledgeBase
from redi.lazy import Tensor, torch


class Keys(Protocol):
    """`len()` keys of `width` numbers each."""

    width: int

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Tensor) -> Tensor:
        """float32 (..., width) for rows of shape (...)."""

    def block(self, first: int, last: int) -> Tensor:
        """The keys `first` to `last` (excluded): float32 (n, width)."""


class StoredKeys:
    """A column of a knowledge base, read from its shards when asked for."""

    def __init__(self, kb: KnowledgeBase, group: str, name: str) -> None:
        self.kb, self.group, self.name = kb, group, name
        self.width = prod(kb.shape(group, name))

    def __len__(self) -> int:
        return len(self.kb)

    def __getitem__(self, rows: Tensor) -> Tensor:
        found = self.kb.gather(self.group, self.name, rows)
        return found.reshape(*rows.shape, self.width)

    def block(self, first: int, last: int) -> Tensor:
        return self.kb.column(self.group, self.name, first, last).flatten(1)


class ArrayKeys:
    """An array (N, ...) in memory or memory-mapped, of full or half precision."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array.reshape(len(array), -1)
        self.width = self.array.shape[1]

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, rows: Tensor) -> Tensor:
        found = self.array[rows.flatten().numpy()]
        return torch.from_numpy(found).float().reshape(*rows.shape, self.width)

    def block(self, first: int, last: int) -> Tensor:
        return torch.from_numpy(np.array(self.array[first:last])).float()
