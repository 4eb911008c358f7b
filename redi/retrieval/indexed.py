"""Search through finders, one per noise partition, and exact re-ranking from the keys."""

from __future__ import annotations

from bisect import bisect_right
from math import sqrt

import numpy as np

from redi.errors import UsageError
from redi.lazy import Tensor, torch
from redi.retrieval.finders import Finder
from redi.retrieval.keys import Keys
from redi.retrieval.partitions import PartitionedSearch
from redi.retrieval.threads import one_thread

_FIRST = 2  # candidates beyond H that are always compared in full
_SURE = 3  # standard deviations of how far keys lie beyond their bounds


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
        members, flat = self.members[part].numpy(), queries.float()
        wanted = min(self.candidates(neighbours), len(members))
        found, bounds = self.finders[part].find(flat, wanted)
        if found.max(initial=-1) >= len(members):
            raise UsageError(
                "the index holds other keys than the KB: run 'redi kb index' or add "
                "retrieval.rebuild_index=true to build it again"
            )
        proposed = np.where(found < 0, -1, members[found]).tolist()
        # query by query: the keys of one fit into the processor's cache, those of a batch do not
        with one_thread():
            nearest = [
                self._nearest(query.double(), rows, bound, members, neighbours)
                for query, rows, bound in zip(flat, proposed, bounds.tolist(), strict=True)
            ]
        squares = [[square for square, _ in ranked] for ranked in nearest]
        rows = [[row for _, row in ranked] for ranked in nearest]
        return torch.from_numpy(np.array(rows)), torch.from_numpy(np.sqrt(squares))

    def _nearest(
        self,
        query: Tensor,
        rows: list[int],
        bounds: list[float],
        members: np.ndarray,
        neighbours: int,
    ) -> list[tuple[float, int]]:
        """Squared distances and rows of the nearest proposed keys, whose bounds ascend.

        The first ones show how far keys lie beyond their bounds; a later one is read unless its
        bound and that, less `_SURE` standard deviations, already exceed the H-th best distance.
        """
        count = len(rows) if rows[-1] >= 0 else rows.index(-1)  # few: cells without enough members
        if count < neighbours:
            return self._ranked(query, members.tolist())[:neighbours]
        first = min(neighbours + _FIRST, count)
        ranked = self._ranked(query, rows[:first])
        if first < count:
            bound = dict(zip(rows[:first], bounds[:first], strict=True))
            beyond = [square - bound[row] for square, row in ranked]
            mean = sum(beyond) / first
            reach = mean - _SURE * sqrt(sum((gap - mean) ** 2 for gap in beyond) / first)
            able = bisect_right(bounds, ranked[neighbours - 1][0] - max(0.0, reach), first, count)
            if able > first:
                ranked = sorted(ranked + self._ranked(query, rows[first:able]))
        return ranked[:neighbours]

    def _ranked(self, query: Tensor, rows: list[int]) -> list[tuple[float, int]]:
        """Squared distances of keys, by direct subtraction in float64, with their rows; ascending.

        Equal distances are ordered by row.
        """
        gaps = self.keys[torch.tensor(rows)].double().sub_(query)
        squares = torch.linalg.vector_norm(gaps, dim=1).square()
        return sorted(zip(squares.tolist(), rows, strict=True))
