"""Search in partitions: a query only sees the trajectories that started from its noise."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np

from redi.errors import UsageError
from redi.knowledge_base.precision import first_not_finite, within
from redi.lazy import Tensor, torch


def require_finite_keys(keys: Tensor, rows: Tensor) -> None:
    """Refuse keys (n, D) of the given rows of the KB (n,) that cannot be compared."""
    if within(keys, _LARGEST_KEY):
        return
    row = first_not_finite(keys)
    if row is None:
        row = int(keys.abs().amax(1).argmax())
    raise UsageError(
        f"the key of trajectory {int(rows[row])} of the KB holds NaN or numbers beyond "
        f"{_LARGEST_KEY:.0e}: leave that trajectory out ('redi kb subset') or build the KB again"
    )


_LARGEST_KEY = 1e15  # squared distances of millions of such numbers fit into float32


@dataclass(frozen=True)
class Found:
    """Neighbours of a batch of queries, nearest first."""

    rows: Tensor  # (B, H) trajectory index in the knowledge base
    distances: Tensor  # (B, H) Euclidean distance of the keys, float64

    def take(self, rows: Tensor) -> Found:
        """The neighbours of some queries."""
        return Found(self.rows[rows], self.distances[rows])


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
        by trajectory index. Raises `UsageError` for a partition without trajectories, for too many
        neighbours, and for queries that are not finite.
        """
        start = time.perf_counter()
        flat, parts = queries.flatten(1).cpu(), sorted(set(partitions))
        if not within(flat):
            raise UsageError(
                f"sample {first_not_finite(flat)} of the batch is not finite where its neighbours "
                "are looked up: the model or the sampler gave NaN or an infinity, most often by "
                "overflow of float16 (use float32 or bfloat16)"
            )
        for part in parts:
            if part not in self.members:
                raise UsageError(
                    f"the KB has no trajectory with noise {part}: use a larger kb.size"
                )
            if not 1 <= neighbours <= len(self.members[part]):
                raise UsageError(
                    f"retrieval.neighbours={neighbours} does not fit the {len(self.members[part])} "
                    "trajectories to choose from: lower it or raise kb.size"
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
        if not bool(found.distances.isfinite().all()):
            raise UsageError(
                "the distance of a query to a trajectory is not a finite number: the keys of the "
                "KB are too large to be compared"
            )
        self.seconds += time.perf_counter() - start
        return found

    @abstractmethod
    def _search_part(self, part: int, queries: Tensor, neighbours: int) -> tuple[Tensor, Tensor]:
        """Rows and distances (B, H) of queries (B, D) that all belong to one partition."""
