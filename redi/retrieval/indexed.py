"""Search through finders, one per noise partition, and exact re-ranking from the keys."""

from __future__ import annotations

import time

import numpy as np
import torch
from torch import Tensor

from redi.errors import UsageError
from redi.retrieval.finders import Finder
from redi.retrieval.keys import Keys
from redi.retrieval.search import Found

_TIES = 4  # beyond H: float32 may swap near ties before float64 decides


class IndexedSearch:
    """The interface of `ExactSearch` over keys that stay on disk.

    A finder proposes `candidates(H)` keys for each query; they are read and compared in full.
    Distances and order come from direct subtraction in float64.
    """

    def __init__(self, keys: Keys, partitions: np.ndarray, finders: dict[int, Finder]) -> None:
        self.keys, self.finders = keys, finders
        parts = np.unique(partitions).tolist()
        self.members = {part: np.flatnonzero(partitions == part) for part in parts}
        self.seconds = 0.0

    @staticmethod
    def candidates(neighbours: int) -> int:
        """Keys that are compared in full for so many neighbours."""
        return 2 * neighbours + 12

    def smallest_partition(self) -> int:
        """Trajectories in the smallest partition: the most neighbours that can be asked for."""
        return min(len(members) for members in self.members.values())

    def search(self, queries: Tensor, partitions: list[int], neighbours: int) -> Found:
        """The `neighbours` nearest trajectories of each query (B, ...) in its partition."""
        start = time.perf_counter()
        flat = queries.flatten(1).cpu().float()
        rows = torch.empty((len(flat), neighbours), dtype=torch.int64)
        distances = torch.empty((len(flat), neighbours), dtype=torch.float64)
        for part in sorted(set(partitions)):
            if part not in self.members:
                raise UsageError(
                    f"the KB has no trajectory with noise {part}: use a larger kb.size"
                )
            members = torch.from_numpy(self.members[part])
            chosen = [i for i, p in enumerate(partitions) if p == part]
            wanted = min(self.candidates(neighbours), len(members))
            found = self.finders[part].find(flat[chosen], wanted)
            for i, local in zip(chosen, found, strict=True):
                local = local[local >= 0]
                if len(local) < neighbours:  # cells without enough members: compare all
                    local = torch.arange(len(members))
                rows[i], distances[i] = self._nearest(flat[i], members[local], neighbours)
        self.seconds += time.perf_counter() - start
        return Found(rows, distances)

    def _nearest(self, query: Tensor, rows: Tensor, neighbours: int) -> tuple[Tensor, Tensor]:
        """The nearest of some rows by exact distance; equal distances by trajectory index."""
        rows = rows.sort().values
        keys = self.keys[rows]
        rough = torch.linalg.vector_norm(keys - query, dim=1)
        close = rough.topk(min(neighbours + _TIES, len(rows)), largest=False).indices.sort().values
        exact, order = (keys[close].double() - query.double()).norm(dim=1).sort(stable=True)
        return rows[close[order[:neighbours]]], exact[:neighbours]
