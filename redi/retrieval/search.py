"""Nearest keys in memory: FAISS finds candidates, exact distances order them."""

from __future__ import annotations

from typing import Any

import numpy as np

from redi.errors import UsageError
from redi.lazy import Tensor, torch
from redi.retrieval.builds import load_faiss
from redi.retrieval.partitions import PartitionedSearch, require_finite_keys

_EXTRA = 8  # candidates beyond H: FAISS's expanded norms may swap near ties
_BLOCK = 256  # keys centred at a time


class ExactSearch(PartitionedSearch):
    """Exact search over keys, one flat FAISS index per noise partition.

    Keys share a large common part (one noise), so they are centred before FAISS sees them.
    """

    def __init__(self, keys: Tensor, partitions: np.ndarray) -> None:
        faiss = load_faiss()  # 34 MB that a search through principal components does without
        super().__init__(partitions)
        self.keys = keys.flatten(1)  # (K, D)
        require_finite_keys(self.keys, torch.arange(len(self.keys)))
        self.centre = torch.mean(self.keys, 0, dtype=torch.float64)
        self.indexes: dict[int, Any] = {}
        for part, members in self.members.items():
            self.indexes[part] = faiss.IndexFlatL2(self.keys.shape[1])
            for rows in members.split(_BLOCK):
                self.indexes[part].add(self._centred(self.keys[rows]))

    def _search_part(self, part: int, queries: Tensor, neighbours: int) -> tuple[Tensor, Tensor]:
        members = self.members[part]
        wanted = min(neighbours + _EXTRA, len(members))
        _, local = self.indexes[part].search(self._centred(queries), wanted)
        if local.min() < 0:
            raise UsageError(
                "the keys of the KB and of a query are too far apart to be compared in float32"
            )
        candidates = members[torch.from_numpy(local)].sort(1).values  # (b, wanted)
        gaps = self.keys[candidates].double() - queries[:, None].double()
        exact, order = gaps.norm(dim=-1).sort(dim=1, stable=True)
        return candidates.gather(1, order)[:, :neighbours], exact[:, :neighbours]

    def _centred(self, vectors: Tensor) -> np.ndarray:
        return np.ascontiguousarray((vectors.double() - self.centre).float().numpy())
