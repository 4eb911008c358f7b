"""What a knowledge base is: its identity, its columns, its shard size."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from redi.errors import UsageError
from redi.files import read_json, write_json

FORMAT = 1


@dataclass(frozen=True)
class Column:
    """One array of the store: a row of `shape` per trajectory.

    Columns of one group share a file per shard; the groups are the stored steps, so keys are
    contiguous on disk and a sweep over value steps reads only the one it needs.
    """

    group: str
    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"

    @property
    def row_bytes(self) -> int:
        return prod(self.shape) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class Manifest:
    """Identity (what has to match a query's setting) and layout of a knowledge base."""

    identity: dict[str, Any]
    columns: tuple[Column, ...]
    shard_size: int

    @property
    def groups(self) -> dict[str, list[Column]]:
        found: dict[str, list[Column]] = {}
        for column in self.columns:
            found.setdefault(column.group, []).append(column)
        return found

    @property
    def row_bytes(self) -> int:
        """Bytes of arrays per trajectory."""
        return sum(column.row_bytes for column in self.columns)

    @property
    def digest(self) -> str:
        """Short content hash of the identity and layout; names the default folder."""
        text = json.dumps(self._content(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def shards(self, count: int) -> int:
        """How many whole shards hold `count` trajectories."""
        return -(-count // self.shard_size)

    def _content(self) -> dict[str, Any]:
        columns = [[c.group, c.name, list(c.shape), c.dtype] for c in self.columns]
        return {"identity": self.identity, "columns": columns, "shard_size": self.shard_size}

    def write(self, root: Path, made_with: dict[str, str]) -> None:
        """Write `manifest.json`; `made_with` records versions and is never compared."""
        write_json(
            root / "manifest.json",
            {"format": FORMAT, **self._content(), "made_with": made_with},
        )

    @staticmethod
    def read(root: Path) -> Manifest:
        """Read and check `manifest.json`."""
        path = root / "manifest.json"
        if not root.is_dir() or not path.is_file():
            raise UsageError(f"kb.dir={str(root)!r} holds no knowledge base: run 'redi kb build'")
        content = read_json(path, "the KB manifest")
        version = content.get("format") if isinstance(content, dict) else None
        if version != FORMAT:
            raise UsageError(
                f"the KB manifest {str(path)!r} has format {version}, this version reads "
                f"{FORMAT}: use the version of redi that wrote it or build again"
            )
        try:
            columns = tuple(Column(g, n, tuple(s), d) for g, n, s, d in content["columns"])
            return Manifest(content["identity"], columns, int(content["shard_size"]))
        except (KeyError, TypeError, ValueError) as error:
            raise UsageError(
                f"the KB manifest {str(path)!r} is damaged ({error}): build it again"
            ) from None

    def require_same(self, other: Manifest, root: Path) -> None:
        """Refuse to mix settings: name every field of `root` that differs from what is wanted."""
        differences = _differences(self._content(), other._content())
        if differences:
            raise UsageError(
                f"kb.dir={str(root)!r} was built with another setting ({'; '.join(differences)}): "
                "match it, or leave kb.dir unset to build a KB for this setting"
            )


def _differences(wanted: dict[str, Any], found: dict[str, Any]) -> list[str]:
    lines = []
    fields = {**wanted["identity"], "shard_size": wanted["shard_size"]}
    theirs = {**found["identity"], "shard_size": found["shard_size"]}
    for name in dict.fromkeys([*fields, *theirs]):
        mine, its = fields.get(name), theirs.get(name)
        if mine != its:
            lines.append(f"{name}: KB has {_short(its)}, this run {_short(mine)}")
    if not lines and wanted["columns"] != found["columns"]:
        names = [sorted({f"{c[0]}/{c[1]}" for c in side["columns"]}) for side in (found, wanted)]
        lines.append(f"columns: KB has {_short(names[0])}, this run {_short(names[1])}")
    return lines


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
