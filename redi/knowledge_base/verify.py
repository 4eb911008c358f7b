"""Checking a knowledge base against the hashes in its journal."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path

from redi.errors import UsageError
from redi.files import is_partial
from redi.knowledge_base.journal import FILE_NAME, Journal, committed
from redi.knowledge_base.manifest import Manifest
from redi.reading import digest_of, open_below, refuse_link


def verify(root: Path, shards: Iterable[int], hashes: bool = True) -> int:
    """Check every file of the given shards against the journal; returns how many were checked.

    Raises `UsageError` naming the first file that is missing, truncated or altered.
    """
    manifest = Manifest.read(root)
    return sum(check_files(root, Journal.read(root, shard, manifest), hashes) for shard in shards)


def check_files(root: Path, journal: Journal, hashes: bool) -> int:
    """Check one shard's files: sizes always, content where `hashes`."""
    fix = f"delete journal/{journal.shard:05d}.json and run 'redi kb build' to make it again"
    for name, expected in journal.files.items():
        path = os.path.join(root, name)
        try:
            found = os.lstat(path)
        except OSError:
            raise UsageError(f"the KB file {path!r} is missing: {fix}") from None
        refuse_link(os.path.dirname(path))
        if not stat.S_ISREG(found.st_mode):
            os.close(open_below(root, name, "the KB file"))  # says what it is
        if (size := found.st_size) != expected["bytes"]:
            raise UsageError(
                f"the KB file {path!r} has {size} bytes in place of {expected['bytes']}: {fix}"
            )
        if hashes and digest_of(open_below(root, name, "the KB file")) != expected["sha256"]:
            raise UsageError(f"the KB file {path!r} was altered (hash differs): {fix}")
    return len(journal.files)


def leftovers(root: Path, manifest: Manifest) -> list[Path]:
    """What writers that were interrupted or came second have left: files that are never read.

    Temporary files, and files with a shard's name and a content hash in it that no journal entry
    names. A shard whose entry cannot be read keeps its files, and so does every name that this
    version did not give.
    """
    named: dict[int, set[str] | None] = {}
    found = []
    for group in (*manifest.groups, "prompts"):
        if (root / group).is_symlink():
            continue
        for path in (root / group).glob("*"):
            if is_partial(path.name):
                found.append(path)
                continue
            parts = FILE_NAME.fullmatch(f"{group}/{path.name}")
            if not parts or not parts[3] or path.is_symlink():
                continue
            shard = int(parts[2])
            if shard not in named:
                named[shard] = _named(root, shard, manifest)
            mine = named[shard]
            if mine is not None and f"{group}/{path.name}" not in mine:
                found.append(path)
    return sorted(found)


def _named(root: Path, shard: int, manifest: Manifest) -> set[str] | None:
    """Files that a shard's entry names, none without one; None: it cannot be read."""
    if not committed(root, shard):
        return set()
    try:
        return set(Journal.read(root, shard, manifest).files)
    except UsageError:
        return None
