"""Journal entries: the file whose existence makes a shard part of the knowledge base."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redi.errors import UsageError
from redi.files import commit_json
from redi.knowledge_base.manifest import Manifest
from redi.reading import read_sealed, refuse_link, sealed, whole

PROMPTS = "prompts"  # the group that holds the prompt table
#: a shard's file below the root: group, shard number, hash of its content (since format 2), kind
FILE_NAME = re.compile(r"([a-z][a-z0-9_]*)/([0-9]{5,9})(-[0-9a-f]{12})?\.(safetensors|parquet)")
_SHARD_NAME = re.compile(r"[0-9]{5,9}\.json")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_LARGEST_TABLE = 1 << 16  # bytes of a trajectory's row in the prompt table, on average


@dataclass(frozen=True)
class Journal:
    """What one committed shard consists of."""

    shard: int
    rows: int
    #: path below the root -> {"bytes": ..., "sha256": ...}
    files: dict[str, dict[str, Any]]
    #: "group/column" -> relative RMS error of its stored precision
    errors: dict[str, float]

    def name(self, group: str) -> str:
        """Path of a group's file below the root."""
        return next(n for n in self.files if n.split("/")[0] == group)

    @property
    def bytes(self) -> int:
        return sum(int(file["bytes"]) for file in self.files.values())

    def commit(self, root: Path) -> bool:
        """Make the shard part of the KB; False where another writer has committed it already."""
        content = {"rows": self.rows, "files": self.files, "errors": self.errors}
        return commit_json(journal_path(root, self.shard), sealed(content))

    @staticmethod
    def read(root: Path, shard: int, manifest: Manifest) -> Journal:
        """Read and check an entry, of this format or of format 1 (files only, whole shards).

        Its files are those of this shard, one for each group of the manifest, and large enough for
        its rows; none of them is outside of the KB's folder.
        """
        folder = os.path.join(root, "journal")
        refuse_link(folder)
        path = f"{folder}/{shard:05d}.json"
        content = read_sealed(path, "the KB journal", _of_format_1)
        old = _of_format_1(content)
        try:
            rows = manifest.shard_size if old else whole(content["rows"], 1, manifest.shard_size)
            files = _files(content if old else content["files"], shard, rows, manifest)
            return Journal(shard, rows, files, {} if old else _errors(content["errors"]))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            reason = f"no {error}" if isinstance(error, KeyError) else str(error)
            raise UsageError(
                f"the KB journal {path!r} is damaged ({reason}): delete it and run "
                "'redi kb build' to make its shard again"
            ) from None


def _files(given: Any, shard: int, rows: int, manifest: Manifest) -> dict[str, dict[str, Any]]:
    """The files of an entry, or a `ValueError`."""
    needed = {group: rows * each for group, each in manifest.group_bytes.items()}
    needed[PROMPTS] = 0
    found: dict[str, dict[str, Any]] = {}
    for name, described in dict(given).items():
        parts = FILE_NAME.fullmatch(name)
        kind = "parquet" if parts and parts[1] == PROMPTS else "safetensors"
        if not parts or parts[2] != f"{shard:05d}" or parts[4] != kind or parts[1] not in needed:
            raise ValueError(f"{name[:100]!r} is no file of shard {shard}")
        size = whole(described["bytes"], needed.pop(parts[1]), 1 << 50)
        if parts[1] == PROMPTS and size > _LARGEST_TABLE * (rows + 16):
            raise ValueError(f"{name!r} has {size} bytes for {rows} prompts")
        if not _DIGEST.fullmatch(described["sha256"]):
            raise ValueError(f"{name!r} has no SHA-256")
        found[name] = {"bytes": size, "sha256": described["sha256"]}
    if needed:
        raise ValueError(f"no file for {', '.join(needed)}")
    return found


def _errors(given: Any) -> dict[str, float]:
    errors = {str(name): float(value) for name, value in dict(given).items()}
    if not all(math.isfinite(error) and error >= 0 for error in errors.values()):
        raise ValueError("its errors are no errors")
    return errors


def _of_format_1(content: dict[str, Any]) -> bool:
    """Format 1 was the files alone, each described by an object."""
    return bool(content) and all(
        isinstance(described, dict) and "sha256" in described for described in content.values()
    )


def stated_error(journals: Iterable[Journal], column: str) -> float:
    """The largest relative RMS error that any shard states for a "group/column"."""
    return max((journal.errors.get(column, 0.0) for journal in journals), default=0.0)


def journal_path(root: Path, shard: int) -> Path:
    """Where a shard's journal entry is."""
    return root / "journal" / f"{shard:05d}.json"


def committed(root: Path, shard: int) -> bool:
    """Whether a shard was written to the end."""
    return journal_path(root, shard).is_file()


def all_shards(root: Path) -> list[int]:
    """Numbers of all committed shards; a part of a KB may start after the first."""
    folder = os.path.join(root, "journal")
    refuse_link(folder)
    try:
        names = [name for name in os.listdir(folder) if _SHARD_NAME.fullmatch(name)]
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(n for n in (int(name[:-5]) for name in names) if f"{n:05d}.json" in names)


def prefix(root: Path, manifest: Manifest) -> list[Journal]:
    """Entries of the unbroken run of shards from the first."""
    found: list[Journal] = []
    there = set(all_shards(root))
    while len(found) in there:
        found.append(Journal.read(root, len(found), manifest))
    return found
