"""Journal entries: the file whose existence makes a shard part of the knowledge base."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redi.errors import UsageError
from redi.files import commit_json, read_sealed, sealed


@dataclass(frozen=True)
class Journal:
    """What one committed shard consists of."""

    shard: int
    rows: int
    #: path below the root -> {"bytes": ..., "sha256": ...}
    files: dict[str, dict[str, Any]]
    #: "group/column" -> relative RMS error of its stored precision
    errors: dict[str, float]

    def name(self, group: str) -> str | None:
        """Path of a group's file below the root."""
        return next((n for n in self.files if n.split("/")[0] == group), None)

    @property
    def bytes(self) -> int:
        return sum(int(file["bytes"]) for file in self.files.values())

    def commit(self, root: Path) -> bool:
        """Make the shard part of the KB; False where another writer has committed it already."""
        content = {"rows": self.rows, "files": self.files, "errors": self.errors}
        return commit_json(journal_path(root, self.shard), sealed(content))

    @staticmethod
    def read(root: Path, shard: int, shard_size: int) -> Journal:
        """Read and check an entry, of this format or of format 1 (files only, whole shards)."""
        path = journal_path(root, shard)
        content = read_sealed(path, "the KB journal", _of_format_1)
        old = _of_format_1(content)
        files = content if old else content["files"]
        try:
            for file in files.values():
                int(file["bytes"]), str(file["sha256"])
            rows = shard_size if old else int(content["rows"])
            return Journal(shard, rows, files, {} if old else dict(content["errors"]))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UsageError(
                f"the KB journal {str(path)!r} is damaged ({error}): delete it and run "
                "'redi kb build' to make its shard again"
            ) from None


def _of_format_1(content: dict[str, Any]) -> bool:
    """Format 1 was the files alone, each described by an object."""
    return all(
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
    return sorted(int(p.stem) for p in (root / "journal").glob("*.json") if p.stem.isdigit())


def prefix(root: Path, shard_size: int) -> list[Journal]:
    """Entries of the unbroken run of shards from the first; a short shard ends it."""
    found: list[Journal] = []
    while committed(root, len(found)) and (not found or found[-1].rows == shard_size):
        found.append(Journal.read(root, len(found), shard_size))
    return found
