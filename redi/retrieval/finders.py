"""Finders: which keys may be among the nearest; exact distances decide among them afterwards."""

from __future__ import annotations

from math import sqrt
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from redi.errors import UsageError
from redi.lazy import Tensor, torch
from redi.retrieval.builds import load_faiss
from redi.retrieval.keys import Keys
from redi.retrieval.partitions import require_finite_keys
from redi.retrieval.projection import Projection
from redi.retrieval.threads import one_thread

if TYPE_CHECKING:
    import faiss

WIDTH = 64  # numbers per key: 63 components and the length of the rest
_SAMPLE = 1024  # keys that the components are fitted on
_BLOCK = 1024  # keys read at a time


class Finder(Protocol):
    """Proposes rows of one part of the keys."""

    def find(self, queries: Tensor, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Positions among the part's members for queries (B, D), int64 (B, count); -1: none.

        With them, ascending, lower bounds of the squared distances: float32 (B, count).
        """


class Scan:
    """Every member is compared, block by block; in float32, on centred keys."""

    def __init__(self, keys: Keys, members: Tensor) -> None:
        self.keys, self.members = keys, members
        self.centre = keys[self.members[:_BLOCK]].mean(0)

    def find(self, queries: Tensor, count: int) -> tuple[np.ndarray, np.ndarray]:
        asked = queries - self.centre
        best = torch.empty(len(queries), 0)
        rows = torch.empty(len(queries), 0, dtype=torch.int64)
        for first in range(0, len(self.members), _BLOCK):
            keys = _rows(self.keys, self.members[first : first + _BLOCK])
            require_finite_keys(keys, self.members[first : first + _BLOCK])
            keys = keys.sub_(self.centre)
            scores = torch.linalg.vector_norm(keys, dim=1).square() - 2 * (asked @ keys.T)
            mine = torch.arange(first, first + len(keys)).expand(len(queries), -1)
            best, rows = torch.cat([best, scores], 1), torch.cat([rows, mine], 1)
            best, order = best.topk(min(count, best.shape[1]), 1, largest=False)
            rows = rows.gather(1, order)
        return rows.numpy(), _completed(best, asked)


class Components:
    """Every member is compared in its principal components, on the GPU where there is one."""

    def __init__(self, projection: Projection, coordinates: Tensor) -> None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.projection = projection
        self.coordinates = coordinates.to(device)
        self.squares = torch.linalg.vector_norm(self.coordinates, dim=1).square()

    @one_thread()
    def find(self, queries: Tensor, count: int) -> tuple[np.ndarray, np.ndarray]:
        asked = self.projection(queries)
        there = asked.to(self.coordinates.device)
        scores = torch.addmm(self.squares, there, self.coordinates.T, alpha=-2)
        best = scores.topk(min(count, len(self.squares)), 1, largest=False)
        return best.indices.cpu().numpy(), _completed(best.values.cpu(), asked)


class Partial:
    """Some members are compared, in their principal components: cells or a graph (FAISS)."""

    def __init__(self, projection: Projection, index: faiss.Index) -> None:
        self.projection, self.index = projection, index

    @one_thread()
    def find(self, queries: Tensor, count: int) -> tuple[np.ndarray, np.ndarray]:
        faiss = load_faiss()
        asked, threads = self.projection(queries).numpy(), faiss.omp_get_max_threads()
        faiss.omp_set_num_threads(1)
        try:
            squares, rows = self.index.search(asked, count)
        finally:
            faiss.omp_set_num_threads(threads)
        return rows, squares


def _completed(scores: Tensor, asked: Tensor) -> np.ndarray:
    """Squared distances from `|key|^2 - 2 <key, asked>`."""
    numbers = asked.numpy()
    return np.maximum(scores.numpy() + np.einsum("ij,ij->i", numbers, numbers)[:, None], 0)


def project(keys: Keys, members: np.ndarray, width: int = WIDTH) -> tuple[Projection, Tensor]:
    """Components fitted on a sample of the members, and the coordinates of all of them."""
    rows = torch.from_numpy(members)
    drawn = np.random.default_rng(0).permutation(len(members))[:_SAMPLE]
    sample = rows[torch.from_numpy(np.sort(drawn))]
    fitted_on = keys[sample]
    require_finite_keys(fitted_on, sample)
    projection = Projection.fit(fitted_on, width)
    parts = []
    for i in range(0, len(rows), _BLOCK):
        block = _rows(keys, rows[i : i + _BLOCK])
        require_finite_keys(block, rows[i : i + _BLOCK])
        parts.append(projection(block))
    return projection, torch.cat(parts)


def _rows(keys: Keys, rows: Tensor) -> Tensor:
    """Keys of ascending rows; in one read where they follow each other."""
    first, last = int(rows[0]), int(rows[-1]) + 1
    return keys.block(first, last) if last - first == len(rows) else keys[rows]


def serialized(index: faiss.Index) -> Tensor:
    """The bytes of an index: uint8 (n,)."""
    return torch.from_numpy(load_faiss().serialize_index(index))


def deserialized(data: Tensor) -> faiss.Index:
    """The index of `serialized`, which goes on using the memory of `data`."""
    faiss = load_faiss()
    array = data.numpy()
    reader = faiss.ZeroCopyIOReader(faiss.swig_ptr(array), len(array))
    try:
        index: Any = faiss.read_index(reader, faiss.IO_FLAG_MMAP_IFC)
        if index.d != WIDTH:
            raise RuntimeError(f"{index.d} numbers per key")
    except RuntimeError:
        raise UsageError(
            "the index of the KB is no FAISS index of its keys: run 'redi kb index' or add "
            "retrieval.rebuild_index=true to build it again"
        ) from None
    index.referenced_objects = [array]
    return index


def build_partial(kind: str, coordinates: np.ndarray) -> faiss.Index:
    """A FAISS index of `kind` over coordinates (N, width), trained on them alone."""
    faiss = load_faiss()
    width = coordinates.shape[1]
    if kind == "hnsw":
        graph = faiss.IndexHNSWFlat(width, 32)
        graph.hnsw.efConstruction = 80
        graph.hnsw.efSearch = 96
        graph.add(coordinates)
        return graph
    count = len(coordinates)
    cells = max(1, min(int(4 * sqrt(count)), count // 40))
    # FAISS's own inverted lists: "Flat" as they are, 8 bits a number, or 8 bits for two numbers
    codes = {"ivf": "Flat", "sq": "SQ8", "pq": f"PQ{width // 2}x{8 if count >= 10_000 else 4}"}
    index: Any = faiss.index_factory(width, f"IVF{cells},{codes[kind]}")
    index.cp.min_points_per_centroid = 1  # small parts are as good as they can be
    index.nprobe = min(cells, max(64, cells // 20))
    index.train(coordinates)
    index.add(coordinates)
    return index
