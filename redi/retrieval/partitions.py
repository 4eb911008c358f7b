"""Search in partitions: a query only sees the trajectories that started from its noise."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from redi.errors import UsageError


@dataclass(frozen=True)
class Found:
    """Neighbours of a batch of queries, nearest first."""

    rows: Tensor  # (B, H) trajectory index in the knowledge base
    distances: Tensor  # (B, H) Euclidean distance of the keys, float64


class PartitionedSearch(ABC):
    """Sends each query to its partition, and counts the seconds that this takes."""

    def __init__(self, partitions: np.ndarray) -> None:
        parts = np.unique(partitions).tolist()
        self.members: dict[int, Tensor] = {
            part: torch.from_numpy(np.flatnonzero(partitions == part)) for part in parts
        }
        self.seconds = 0.0

    def smallest_partition(self) -> int:
        """Trajectories in the smallest partition: the most neighbours that can be asked for."""
        return min(len(members) for members in self.members.values())

    def search(self, queries: Tensor, partitions: list[int], neighbours: int) -> Found:
        """The `neighbours` nearest trajectories of each query (B, ...) in its partition.

        Distances and order come from direct subtraction in float64; equal distances are ordered
        by trajectory index. Raises `UsageError` for a partition without trajectories.
        """
        start = time.perf_counter()
        flat, parts = queries.flatten(1).cpu(), sorted(set(partitions))
        for part in parts:
            if part not in self.members:
                raise UsageError(
                    f"the KB has no trajectory with noise {part}: use a larger kb.size"
                )
        if len(parts) == 1:
            found = Found(*self._search_part(parts[0], flat, neighbours))
        else:
            rows = torch.empty((len(flat), neighbours), dtype=torch.int64)
            distances = torch.empty((len(flat), neighbours), dtype=torch.float64)
            for part in parts:
                chosen = torch.tensor([i for i, p in enumerate(partitions) if p == part])
                rows[chosen], distances[chosen] = self._search_part(part, flat[chosen], neighbours)
            found = Found(rows, distances)
        self.seconds += time.perf_counter() - start
        return found

    @abstractmethod
    def _search_part(self, part: int, queries: Tensor, neighbours: int) -> tuple[Tensor, Tensor]:
        """Rows and distances (B, H) of queries (B, D) that all belong to one partition."""
