"""What a knowledge base is: its identity, its columns, its shard size."""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any

from redi.errors import UsageError
from redi.files import commit_json, usable_folder, write_json
from redi.knowledge_base.differences import differences
from redi.knowledge_base.precision import PRECISIONS, row_bytes
from redi.reading import read_sealed, sealed, whole

#: 2 added checksums, stored precisions, file names with a hash, and subsets; 3 added shards of
#: fewer rows before the last, at which a reader of format 2 stops without a word
FORMAT = 3
_READABLE = (1, 2, FORMAT)
_SEALED = (2, FORMAT)
_WORD = re.compile(r"[a-z][a-z0-9_]{0,63}")  # names of groups, which are folders, and of columns
_TAKEN = ("journal", "index", "fits", "prompts")  # folders of something else
#: fields of an identity that readers compute with, where they are there
_FIELDS: dict[str, tuple[type, ...]] = {
    "sampler": (str,),
    "steps": (int,),
    "key_step": (int, type(None)),
    "key_steps": (list,),
    "stored_steps": (list,),
    "latent_shape": (list,),
    "noise_policy": (str,),
    "noise_bank_size": (int,),
    "noise_seed": (int,),
    "model_hash": (str,),
    "scheduler": (dict,),
}


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

    @cached_property
    def groups(self) -> dict[str, list[Column]]:
        found: dict[str, list[Column]] = {}
        for column in self.columns:
            found.setdefault(column.group, []).append(column)
        return found

    @cached_property
    def group_bytes(self) -> dict[str, int]:
        """Bytes of arrays per trajectory in each group's file."""
        return {group: sum(c.row_bytes for c in columns) for group, columns in self.groups.items()}

    @property
    def row_bytes(self) -> int:
        """Bytes of arrays per trajectory."""
        return sum(self.group_bytes.values())

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
        if not usable_folder(root, "kb.dir") or not os.path.lexists(path):
            raise UsageError(
                f"kb.dir={str(root)!r} holds no knowledge base: run 'redi kb build', or name the "
                "folder that holds manifest.json"
            )
        content = read_sealed(path, "the KB manifest", lambda c: c.get("format") not in _SEALED)
        version = content.get("format")
        if version not in _READABLE:
            raise UsageError(
                f"the KB manifest {str(path)!r} has format {version}, this version reads "
                f"1 to {FORMAT}: use the version of redi that wrote it or build again"
            )
        try:
            return Manifest(
                _identity(content["identity"]),
                _columns(content["columns"]),
                whole(content["shard_size"], 1, 1 << 24),
                _origin(content.get("origin")),
                {str(name): str(v) for name, v in dict(content["made_with"]).items()},
                version,
            )
        except (KeyError, TypeError, ValueError) as error:
            reason = f"no {error}" if isinstance(error, KeyError) else str(error)
            raise UsageError(
                f"the KB manifest {str(path)!r} is damaged ({reason}): build it again"
            ) from None

    def require_same(self, other: Manifest, root: Path) -> None:
        """Refuse to mix settings: name every field of `root` that differs from what is wanted."""
        differences = _differences(self._content(), other._content())
        if differences:
            raise UsageError(
                f"kb.dir={str(root)!r} was built with another setting ({'; '.join(differences)}): "
                "match it, or leave kb.dir unset to build a KB for this setting"
            )


def _identity(given: Any) -> dict[str, Any]:
    """The identity, with the fields that readers rely on as they must be."""
    identity = dict(given)
    for name, kinds in _FIELDS.items():
        if name in identity and type(identity[name]) not in kinds:
            raise ValueError(f"{name} is {json.dumps(identity[name])[:40]}")
    for name in ("key_step", "steps"):
        if identity.get(name) is not None:
            whole(identity[name], 1, 1 << 20)
    for name in ("key_steps", "stored_steps", "latent_shape"):
        for number in identity.get(name, []):
            whole(number)
    return identity


def _columns(given: Any) -> tuple[Column, ...]:
    """The columns, whose names are safe as names of folders and whose rows have a size."""
    columns = tuple(Column(g, n, tuple(s), d) for g, n, s, d in given)
    for column in columns:
        if not _WORD.fullmatch(column.group) or column.group in _TAKEN:
            raise ValueError(f"a group cannot be named {column.group[:40]!r}")
        if not _WORD.fullmatch(column.name):
            raise ValueError(f"a column cannot be named {column.name[:40]!r}")
        if column.dtype not in PRECISIONS.values():
            raise ValueError(f"columns of type {str(column.dtype)[:40]}")
        if len(column.shape) > 8 or (column.dtype == "int8" and len(column.shape) < 2):
            raise ValueError(f"{column.group}/{column.name} has {len(column.shape)} dimensions")
        whole(prod(whole(length, 1) for length in column.shape))
    names = [(column.group, column.name) for column in columns]
    if not names or len(set(names)) != len(names):
        raise ValueError("its columns are not different from each other, or there are none")
    return columns


def _origin(given: Any) -> dict[str, Any] | None:
    if given is None:
        return None
    return {"rows": whole(given["rows"], 1), "of": str(given["of"]), "chosen": str(given["chosen"])}


def manifest_path(root: Path) -> Path:
    """The file that makes a folder a knowledge base."""
    return root / "manifest.json"


def _differences(wanted: dict[str, Any], found: dict[str, Any]) -> list[str]:
    theirs = {**found["identity"], "shard_size": found["shard_size"]}
    mine = {**wanted["identity"], "shard_size": wanted["shard_size"]}
    lines = differences(theirs, mine, "this run")
    if not lines and wanted["columns"] != found["columns"]:
        sides = [{f"{c[0]}/{c[1]} {c[3]}" for c in side["columns"]} for side in (found, wanted)]
        lacking, more = sorted(sides[0] - sides[1]), sorted(sides[1] - sides[0])
        lines = differences({"columns": lacking}, {"columns": more}, "this run")
    return lines
