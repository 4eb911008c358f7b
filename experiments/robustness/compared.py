"""What a folder of results holds, without what varies between equal runs."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from safetensors.torch import load_file

#: fields of results that say how long something took, when it ran, or what was at hand already
_VARYING = re.compile(r"second|speed|finished|reference_batches")


def content(folder: Path) -> dict[str, Any]:
    """What a folder holds, file by file, without what varies between equal runs."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_file() and not any(part.startswith(".") for part in Path(name).parts):
            found[name] = _kept(path)
    return found


def _kept(path: Path) -> Any:
    read = _READERS.get(path.suffix)
    if path.suffix in (".png", ".html", ".md") or path.name == "multirun.yaml":
        return path.stat().st_size > 0  # made of the numbers compared here; names its own folder
    return path.read_bytes() if read is None else read(path)


def _numbers(path: Path) -> Any:
    return _steady(json.loads(path.read_text()))


def _steady(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _steady(v) for k, v in value.items() if not _VARYING.search(k)}
    return [_steady(item) for item in value] if isinstance(value, list) else value


def _table(path: Path) -> Any:
    return {k: v for k, v in pq.read_table(path).to_pydict().items() if not _VARYING.search(k)}


def _lines(path: Path) -> Any:
    with open(path, newline="") as file:
        return _steady(list(csv.DictReader(file)))


def _tensors(path: Path) -> Any:
    return {name: tensor.numpy().tobytes() for name, tensor in load_file(path).items()}


_READERS: dict[str, Callable[[Path], Any]] = {
    ".csv": _lines,
    ".json": _numbers,
    ".parquet": _table,
    ".safetensors": _tensors,
}


def differing(one: dict[str, Any], two: dict[str, Any]) -> list[str]:
    """Names of files that only one side has, or that differ."""
    return sorted(n for n in one.keys() | two.keys() if one.get(n) != two.get(n))
