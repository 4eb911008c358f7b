"""Names of the ways to find the nearest keys; `auto` picks one by the size of the KB."""

from __future__ import annotations

from redi.errors import UsageError
from redi.lazy import torch

INDEXES: dict[str, str] = {
    "auto": "picked by the number of trajectories to search and the size of their keys",
    "flat": "exact: every key is compared",
    "pca": "every key, in its principal components, on the GPU where there is one",
    "ivf": "principal components in cells, of which some are searched",
    "sq": "as ivf, components stored in 8 bits",
    "pq": "as ivf, components stored as product codes",
    "hnsw": "principal components in a navigable graph",
}
# Measured by experiments/store/benchmark.py and its crossover.py. Below this many numbers (keys x
# width: 2,000 keys of the embedded model, 125 of Stable Diffusion) a scan in memory is as fast as
# its principal components; below so many keys the components are scanned about as fast as cells of
# them are searched, without loading FAISS. Cells of 8-bit components are as exact as a graph, a
# seventh of its size, and quicker to build.
_EXACT_NUMBERS, _PCA_KEYS = 2_048_000, 10_000
# A GPU holds the components of so many keys (256 bytes each) and compares them all in one product,
# so no neighbour is missed and nothing is trained. FAISS's cells and graphs stay on the CPU.
_PCA_KEYS_GPU = 4_000_000


#: trajectories with each noise that a kind needs: the codes of `pq` are fitted to so many
_LEAST = {"pq": 16}


def check_index(kind: str, smallest: int) -> None:
    """Refuse an unknown kind, and one that so few trajectories with one noise cannot carry."""
    if kind not in INDEXES:
        raise UsageError(f"retrieval.index={kind!r} is unknown; use one of {', '.join(INDEXES)}")
    least = _LEAST.get(kind, 1)
    if smallest < least:
        raise UsageError(
            f"retrieval.index={kind} needs {least} trajectories with each noise, the KB has "
            f"{smallest}: use retrieval.index=auto or a larger kb.size"
        )


def resolve(kind: str, largest: int, width: int) -> str:
    """The kind to use for parts of at most `largest` trajectories with keys of `width` numbers."""
    if kind != "auto":
        return kind
    if largest * width <= _EXACT_NUMBERS:
        return "flat"
    most = _PCA_KEYS_GPU if torch.cuda.is_available() else _PCA_KEYS
    return "pca" if largest <= most else "sq"
