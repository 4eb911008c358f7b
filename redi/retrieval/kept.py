"""Indexes kept beside a knowledge base: arrays under a name with their hash, then `index.json`."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from redi import files
from redi.errors import UsageError
from redi.files import remove, sweep_partials, write_durably, write_json
from redi.lazy import Tensor
from redi.reading import open_file, read_sealed, sealed, sha256
from redi.tensor_files import read_header

_DIGEST = re.compile(r"[0-9a-f]{64}")


def save_index(folder: Path, described: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Keep an index."""
    from safetensors.torch import save

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


def load_index(
    folder: Path, expected: dict[str, Any], fits: Callable[[dict[str, Tensor]], bool]
) -> dict[str, Tensor]:
    """The tensors of a kept index, memory-mapped; refuses one that is stale or damaged."""
    again = "run 'redi kb index' or add retrieval.rebuild_index=true to build it again"
    content = read_sealed(folder / "index.json", "the index")
    different = [name for name in expected if content.get(name) != expected[name]]
    if different:
        raise UsageError(
            f"the index {str(folder)!r} is stale (other {', '.join(different)} than now): {again}"
        )
    digest = content.get("sha256")
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
        raise UsageError(f"the index {str(folder)!r} does not say what it holds: {again}")
    path = folder / f"arrays-{digest[:12]}.safetensors"
    tensors = _read(path, digest)
    if tensors is None or not fits(tensors):
        raise UsageError(f"the index {str(path)!r} is damaged or missing: {again}")
    return tensors


def _read(path: Path, digest: str) -> dict[str, Tensor] | None:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file() or sha256(path, "the index") != digest:
        return None
    try:
        with open(open_file(path, "the index"), "rb") as file:
            read_header(file.fileno())
        return load_file(path)
    except (SafetensorError, ValueError, KeyError):
        return None
