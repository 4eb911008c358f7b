"""Nearest keys: FAISS finds candidates, exact distances order them."""

from __future__ import annotations

import time
from dataclasses import dataclass

import faiss
import numpy as np
import torch
from torch import Tensor

from redi.errors import UsageError

_EXTRA = 8  # candidates beyond H: FAISS's expanded norms may swap near ties


@dataclass(frozen=True)
class Found:
    """Neighbours of a batch of queries, nearest first."""

    rows: Tensor  # (B, H) trajectory index in the knowledge base
    distances: Tensor  # (B, H) Euclidean distance of the keys, float64


class ExactSearch:
    """Exact search over keys, one flat FAISS index per noise partition.

    Keys share a large common part (one noise), so they are centred before FAISS sees them; the
    distances that are reported, and the order, come from direct subtraction in float64. Equal
    distances are ordered by trajectory index.
    """

    def __init__(self, keys: Tensor, partitions: np.ndarray) -> None:
        self.keys = keys.flatten(1)  # (K, D)
        self.centre = self.keys.double().mean(0)
        self.members: dict[int, np.ndarray] = {}
        self.indexes: dict[int, faiss.IndexFlatL2] = {}
        self.seconds = 0.0
        for part in np.unique(partitions).tolist():
            self.members[part] = np.flatnonzero(partitions == part)
            index = faiss.IndexFlatL2(self.keys.shape[1])
            index.add(self._centred(self.keys[self.members[part]]))
            self.indexes[part] = index

    def smallest_partition(self) -> int:
        """Trajectories in the smallest partition: the most neighbours that can be asked for."""
        return min(len(members) for members in self.members.values())

    def search(self, queries: Tensor, partitions: list[int], neighbours: int) -> Found:
        """The `neighbours` nearest trajectories of each query (B, ...) in its partition."""
        start = time.perf_counter()
        flat = queries.flatten(1).cpu()
        rows = torch.empty((len(flat), neighbours), dtype=torch.int64)
        distances = torch.empty((len(flat), neighbours), dtype=torch.float64)
        for part in sorted(set(partitions)):
            if part not in self.indexes:
                raise UsageError(
                    f"the KB has no trajectory with noise {part}: use a larger kb.size"
                )
            chosen = torch.tensor([i for i, p in enumerate(partitions) if p == part])
            members = torch.from_numpy(self.members[part])
            wanted = min(neighbours + _EXTRA, len(members))
            _, local = self.indexes[part].search(self._centred(flat[chosen]), wanted)
            candidates = members[torch.from_numpy(local)].sort(1).values  # (b, wanted)
            gaps = self.keys[candidates].double() - flat[chosen, None].double()
            exact, order = gaps.norm(dim=-1).sort(dim=1, stable=True)
            rows[chosen] = candidates.gather(1, order)[:, :neighbours]
            distances[chosen] = exact[:, :neighbours]
        self.seconds += time.perf_counter() - start
        return Found(rows, distances)

    def _centred(self, vectors: Tensor) -> np.ndarray:
        return np.ascontiguousarray((vectors.double() - self.centre).float().numpy())
