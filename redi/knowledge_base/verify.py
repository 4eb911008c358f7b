"""Checking a knowledge base against the hashes in its journal."""

from __future__ import annotations

from pathlib import Path

from redi.errors import UsageError
from redi.files import read_json, sha256
from redi.knowledge_base.writer import journal_path


def verify(root: Path, shards: range, hashes: bool = True) -> int:
    """Check every file of the given shards against the journal; returns how many were checked.

    Raises `UsageError` naming the first file that is missing, truncated or altered.
    """
    checked = 0
    for shard in shards:
        journal = read_json(journal_path(root, shard), "the KB journal")
        for name, expected in journal.items():
            path = root / name
            fix = f"delete journal/{shard:05d}.json and run 'redi kb build' to make it again"
            if not path.is_file():
                raise UsageError(f"the KB file {str(path)!r} is missing: {fix}")
            size = path.stat().st_size
            if size != expected["bytes"]:
                raise UsageError(
                    f"the KB file {str(path)!r} has {size} bytes in place of "
                    f"{expected['bytes']}: {fix}"
                )
            if hashes and sha256(path) != expected["sha256"]:
                raise UsageError(f"the KB file {str(path)!r} was altered (hash differs): {fix}")
            checked += 1
    return checked
