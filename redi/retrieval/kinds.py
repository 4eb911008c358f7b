"""Names of the ways to find the nearest keys; `auto` picks one by the size of the KB."""

from __future__ import annotations

INDEXES: dict[str, str] = {
    "auto": "picked by the number of trajectories to search",
    "flat": "exact: every key is compared",
    "pca": "every key, in its principal components, on the GPU where there is one",
    "ivf": "principal components in cells, of which some are searched",
    "sq": "as ivf, components stored in 8 bits",
    "pq": "as ivf, components stored as product codes",
    "hnsw": "principal components in a navigable graph",
}
# Not measured yet at these sizes: above them a scan reads more than a cache holds.
_EXACT_UP_TO, _PCA_UP_TO = 2_000, 10_000


def resolve(kind: str, largest: int) -> str:
    """The kind to use for parts of at most `largest` trajectories."""
    if kind != "auto":
        return kind
    if largest <= _EXACT_UP_TO:
        return "flat"
    return "pca" if largest <= _PCA_UP_TO else "hnsw"
