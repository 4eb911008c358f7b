"""What a knowledge base is: its identity, its columns, its shard size."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from redi.errors import UsageError
from redi.files import commit_json, read_sealed, sealed, write_json
from redi.knowledge_base.precision import PRECISIONS, row_bytes

#: 2 added checksums, stored precisions, file names with a hash, and subsets
FORMAT = 2
_READABLE = (1, FORMAT)


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
        return row_bytes(self.shape, self.dtype)


@dataclass(frozen=True)
class Manifest:
    """Identity (what has to match a query's setting) and layout of a knowledge base."""

    identity: dict[str, Any]
    columns: tuple[Column, ...]
    shard_size: int
    #: how a subset was chosen ({"rows": its size, ...}); None: entries are the recipe's own
    origin: dict[str, Any] | None = None
    #: versions that it was made with; never compared
    made_with: dict[str, str] | None = None
    format: int = FORMAT

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

    def write(self, root: Path) -> None:
        """Write `manifest.json` where there is none yet; another writer's is as good."""
        commit_json(manifest_path(root), self._sealed())

    def upgrade(self, root: Path) -> None:
        """Rewrite a manifest of an older format, before shards of this format are added."""
        write_json(manifest_path(root), replace(self, format=FORMAT)._sealed())

    def _sealed(self) -> dict[str, Any]:
        rest = {"origin": self.origin, "made_with": self.made_with or {}}
        return sealed({"format": FORMAT, **self._content(), **rest})

    @staticmethod
    def read(root: Path) -> Manifest:
        """Read and check `manifest.json`."""
        path = manifest_path(root)
        if not path.is_file():
            raise UsageError(
                f"kb.dir={str(root)!r} holds no knowledge base: run 'redi kb build', or name the "
                "folder that holds manifest.json"
            )
        content = read_sealed(path, "the KB manifest", lambda c: c.get("format") != FORMAT)
        version = content.get("format")
        if version not in _READABLE:
            raise UsageError(
                f"the KB manifest {str(path)!r} has format {version}, this version reads "
                f"1 to {FORMAT}: use the version of redi that wrote it or build again"
            )
        try:
            columns = tuple(Column(g, n, tuple(s), d) for g, n, s, d in content["columns"])
            unknown = {column.dtype for column in columns} - set(PRECISIONS.values())
            if unknown:
                raise ValueError(f"columns of type {', '.join(map(str, unknown))}")
            return Manifest(
                dict(content["identity"]),
                columns,
                int(content["shard_size"]),
                content.get("origin"),
                content["made_with"],
                version,
            )
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


def manifest_path(root: Path) -> Path:
    """The file that makes a folder a knowledge base."""
    return root / "manifest.json"


def _differences(wanted: dict[str, Any], found: dict[str, Any]) -> list[str]:
    lines = []
    fields = {**wanted["identity"], "shard_size": wanted["shard_size"]}
    theirs = {**found["identity"], "shard_size": found["shard_size"]}
    for name in dict.fromkeys([*fields, *theirs]):
        mine, its = fields.get(name), theirs.get(name)
        if mine != its:
            lines.append(f"{name}: KB has {_short(its)}, this run {_short(mine)}")
    if not lines and wanted["columns"] != found["columns"]:
        sides = [{f"{c[0]}/{c[1]} {c[3]}" for c in side["columns"]} for side in (found, wanted)]
        names = [sorted(sides[0] - sides[1]), sorted(sides[1] - sides[0])]
        lines.append(f"columns: KB has {_short(names[0])}, this run {_short(names[1])}")
    return lines


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
