"""Opening a search: picked by size, kept beside the knowledge base, refused when stale."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable

import numpy as np

from redi.errors import UsageError
from redi.knowledge_base import KnowledgeBase
from redi.knowledge_base.precision import within
from redi.lazy import Tensor, torch
from redi.reading import refuse_link
from redi.retrieval.finders import (
    WIDTH,
    Components,
    Finder,
    Partial,
    Scan,
    build_partial,
    deserialized,
    project,
    serialized,
)
from redi.retrieval.indexed import IndexedSearch
from redi.retrieval.kept import load_index, save_index
from redi.retrieval.keys import Keys, StoredKeys
from redi.retrieval.kinds import check_index, resolve
from redi.retrieval.projection import Projection
from redi.retrieval.search import ExactSearch

FORMAT = 2
_IN_MEMORY = 256 << 20  # bytes of keys that exact search copies into memory


def open_search(
    kb: KnowledgeBase,
    group: str,
    name: str,
    partitions: np.ndarray,
    kind: str = "auto",
    rebuild: bool = False,
    say: Callable[[str], None] = print,
) -> ExactSearch | IndexedSearch:
    """Search over a column of the KB; builds and keeps the index that this needs.

    A kept index of another content is refused, and built again where `rebuild`.
    """
    sizes = np.unique(partitions, return_counts=True)[1]
    largest = int(sizes.max())
    check_index(kind, int(sizes.min()))
    keys = StoredKeys(kb, group, name)
    picked = resolve(kind, largest, keys.width)
    say(f"Retrieval: {picked} over {len(kb)} keys" + (" (auto)" if kind == "auto" else ""))
    if picked == "flat":
        if 4 * keys.width * len(keys) <= _IN_MEMORY:
            return ExactSearch(kb.column(group, name), partitions)
        return IndexedSearch(keys, partitions, scans(keys, partitions))
    folder = kb.root / "index" / f"{group}-{name}-{len(kb)}-{picked}"
    described = {
        "format": FORMAT,
        "kind": picked,
        "kb": kb.content_hash,
        "partitions": hashlib.sha256(partitions.astype(np.int64).tobytes()).hexdigest(),
    }
    refuse_link(folder.parent)
    refuse_link(folder)
    if os.path.lexists(folder / "index.json") and not rebuild:
        tensors = load_index(folder, described, lambda found: _fitting(found, keys, partitions))
        return IndexedSearch(keys, partitions, finders_from(picked, tensors))
    say(f"Building the index {folder}")
    tensors = build_index(keys, partitions, picked)
    try:
        save_index(folder, described, tensors)
    except UsageError as error:
        say(f"The index is used and not kept: {error}")
    return IndexedSearch(keys, partitions, finders_from(picked, tensors))


def scans(keys: Keys, partitions: np.ndarray) -> dict[int, Finder]:
    """Exact search in keys that do not fit into memory."""
    parts = np.unique(partitions).tolist()
    return {
        part: Scan(keys, torch.from_numpy(np.flatnonzero(partitions == part))) for part in parts
    }


def build_index(keys: Keys, partitions: np.ndarray, kind: str) -> dict[str, Tensor]:
    """Tensors of an index over all partitions; made from the keys alone."""
    tensors: dict[str, Tensor] = {}
    for part in np.unique(partitions).tolist():
        projection, coordinates = project(keys, np.flatnonzero(partitions == part))
        tensors[f"{part}/mean"], tensors[f"{part}/basis"] = projection.mean, projection.basis
        if kind == "pca":
            tensors[f"{part}/coordinates"] = coordinates
        else:
            tensors[f"{part}/faiss"] = serialized(build_partial(kind, coordinates.numpy()))
    return tensors


def _fitting(tensors: dict[str, Tensor], keys: Keys, partitions: np.ndarray) -> bool:
    """Whether tensors have the names, shapes and types of those that `build_index` makes."""
    expected: dict[str, tuple[int, ...]] = {}
    parts, sizes = np.unique(partitions, return_counts=True)
    for part, size in zip(parts.tolist(), sizes.tolist(), strict=True):
        expected[f"{part}/mean"] = (keys.width,)
        expected[f"{part}/basis"] = (WIDTH, keys.width)
        expected[f"{part}/coordinates"] = (size, WIDTH)
    for part in parts.tolist():
        if f"{part}/faiss" in tensors:
            expected[f"{part}/faiss"] = tuple(tensors[f"{part}/faiss"].shape[:1])
            del expected[f"{part}/coordinates"]
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    return shapes == expected and all(
        tensor.dtype == (torch.uint8 if name.endswith("faiss") else torch.float32)
        and (tensor.dtype == torch.uint8 or within(tensor))
        for name, tensor in tensors.items()
    )


def finders_from(kind: str, tensors: dict[str, Tensor]) -> dict[int, Finder]:
    """The finders that `build_index` has made the tensors of."""
    finders: dict[int, Finder] = {}
    for part in {int(name.split("/")[0]) for name in tensors}:
        projection = Projection(tensors[f"{part}/mean"], tensors[f"{part}/basis"])
        if kind == "pca":
            finders[part] = Components(projection, tensors[f"{part}/coordinates"])
        else:
            finders[part] = Partial(projection, deserialized(tensors[f"{part}/faiss"]))
    return finders
