"""Opening a search: picked by size, kept beside the knowledge base, refused when stale."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import Tensor

from redi import files
from redi.errors import UsageError
from redi.files import (
    read_sealed,
    remove,
    sealed,
    sha256,
    sweep_partials,
    write_durably,
    write_json,
)
from redi.knowledge_base import KnowledgeBase
from redi.retrieval.finders import (
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
from redi.retrieval.keys import Keys, StoredKeys
from redi.retrieval.kinds import INDEXES, resolve
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
    if kind not in INDEXES:
        raise UsageError(f"retrieval.index={kind!r} is unknown; use one of {', '.join(INDEXES)}")
    largest = int(np.unique(partitions, return_counts=True)[1].max())
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
    if (folder / "index.json").is_file() and not rebuild:
        return IndexedSearch(keys, partitions, load_index(folder, described))
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


def save_index(folder: Path, described: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Keep an index: its arrays under a name with their hash, then `index.json`."""
    data = save(tensors)
    digest = hashlib.sha256(data).hexdigest()
    path = folder / f"arrays-{digest[:12]}.safetensors"
    sweep_partials(folder)

    def fill(temporary: Path) -> None:
        with open(temporary, "wb") as file:
            files.write(file.fileno(), data, path)

    write_durably(path, fill)
    write_json(folder / "index.json", sealed({**described, "sha256": digest}))
    for old in set(folder.glob("arrays-*.safetensors")) - {path}:
        remove(old)


def load_index(folder: Path, expected: dict[str, Any]) -> dict[int, Finder]:
    """The finders of a kept index; refuses one that is stale or damaged."""
    again = "run 'redi kb index' or add retrieval.rebuild_index=true to build it again"
    content = read_sealed(folder / "index.json", "the index")
    different = [name for name in expected if content.get(name) != expected[name]]
    if different:
        raise UsageError(
            f"the index {str(folder)!r} is stale (other {', '.join(different)} than now): {again}"
        )
    path = folder / f"arrays-{content['sha256'][:12]}.safetensors"
    if not path.is_file() or sha256(path) != content["sha256"]:
        raise UsageError(f"the index {str(path)!r} is damaged or missing: {again}")
    return finders_from(expected["kind"], load_file(path))  # memory-mapped
