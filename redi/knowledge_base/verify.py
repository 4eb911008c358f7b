"""Checking a knowledge base against the hashes in its journal."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from redi.errors import UsageError
from redi.files import sha256
from redi.knowledge_base.journal import Journal
from redi.knowledge_base.manifest import Manifest


def verify(root: Path, shards: Iterable[int], hashes: bool = True) -> int:
    """Check every file of the given shards against the journal; returns how many were checked.

    Raises `UsageError` naming the first file that is missing, truncated or altered.
    """
    size = Manifest.read(root).shard_size
    return sum(check_files(root, Journal.read(root, shard, size), hashes) for shard in shards)


def check_files(root: Path, journal: Journal, hashes: bool) -> int:
    """Check one shard's files: sizes always, content where `hashes`."""
    fix = f"delete journal/{journal.shard:05d}.json and run 'redi kb build' to make it again"
    for name, expected in journal.files.items():
        path = root / name
        if not path.is_file():
            raise UsageError(f"the KB file {str(path)!r} is missing: {fix}")
        size = path.stat().st_size
        if size != expected["bytes"]:
            raise UsageError(
                f"the KB file {str(path)!r} has {size} bytes in place of {expected['bytes']}: {fix}"
            )
        if hashes and sha256(path) != expected["sha256"]:
            raise UsageError(f"the KB file {str(path)!r} was altered (hash differs): {fix}")
    return len(journal.files)


def leftovers(root: Path, journals: Iterable[Journal]) -> list[Path]:
    """Data files that belong to no committed shard: an interrupted writer's, never read."""
    named = {name for journal in journals for name in journal.files}
    data = [*root.glob("*/*.safetensors"), *root.glob("*/*.parquet")]
    return sorted(p for p in data if str(p.relative_to(root)) not in named)
