"""Search through finders, one per noise partition, and exact re-ranking from the keys."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from redi.retrieval.finders import Finder
from redi.retrieval.keys import Keys
from redi.retrieval.partitions import PartitionedSearch

_FIRST = 4  # candidates beyond H that are always compared in full
_SURE = 3  # standard deviations of how far keys lie beyond their bounds
_TIES = 1e-6  # relative: float32 may swap nearer ties than this before float64 decides


class IndexedSearch(PartitionedSearch):
    """The interface of `ExactSearch` over keys that stay on disk.

    A finder proposes `candidates(H)` keys for each query, with lower bounds of their distances.
    Keys are read and compared in full as long as they may be among the nearest.
    """

    def __init__(self, keys: Keys, partitions: np.ndarray, finders: dict[int, Finder]) -> None:
        super().__init__(partitions)
        self.keys, self.finders = keys, finders

    @staticmethod
    def candidates(neighbours: int) -> int:
        """Keys that a finder proposes for so many neighbours."""
        return 2 * neighbours + 12

    def _search_part(self, part: int, queries: Tensor, neighbours: int) -> tuple[Tensor, Tensor]:
        members, flat = self.members[part], queries.float()
        wanted = min(self.candidates(neighbours), len(members))
        found, bounds = self.finders[part].find(flat, wanted)
        every = [
            self._nearest(query, members, local[local >= 0], bound[local >= 0], neighbours)
            for query, local, bound in zip(flat, found, bounds, strict=True)
        ]
        return torch.stack([rows for rows, _ in every]), torch.stack([gaps for _, gaps in every])

    def _nearest(
        self, query: Tensor, members: Tensor, local: Tensor, bounds: Tensor, neighbours: int
    ) -> tuple[Tensor, Tensor]:
        """The nearest of the proposed members, whose bounds ascend.

        The first ones show how far keys lie beyond their bounds; a later one is read unless its
        bound and that, less `_SURE` standard deviations, already exceed the H-th best distance.
        """
        if len(local) < neighbours:  # cells without enough members: compare all
            local, bounds = torch.arange(len(members)), torch.zeros(len(members))
        head = members[local[: neighbours + _FIRST]].sort()
        keys, squares = self._read(query, head.values)
        beyond = squares - bounds[: len(squares)][head.indices]
        spread = _SURE * float(beyond.std()) if len(beyond) > 1 else float("inf")
        limit = float(squares.kthvalue(neighbours).values)
        able = bounds[len(squares) :] + max(0.0, float(beyond.mean()) - spread) <= limit
        rows = head.values
        if bool(able.any()):
            more = members[local[len(squares) :][able]].sort().values
            read, further = self._read(query, more)
            rows, order = torch.cat([rows, more]).sort()
            keys, squares = torch.cat([keys, read])[order], torch.cat([squares, further])[order]
            limit = float(squares.kthvalue(neighbours).values)
        close = torch.nonzero(squares <= limit * (1 + _TIES))[:, 0]
        exact = (keys[close].double() - query.double()).norm(dim=1)
        distances, order = exact.sort(stable=True)
        return rows[close[order[:neighbours]]], distances[:neighbours]

    def _read(self, query: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Keys of ascending rows, and their squared distances: float32 (n, D) and (n,)."""
        keys = self.keys[rows]
        return keys, torch.linalg.vector_norm(keys - query, dim=1).square()
