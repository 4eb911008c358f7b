"""Merging, exporting and importing: shards are copied whole, checked on the way."""

from __future__ import annotations

import hashlib
import os
from functools import partial
from pathlib import Path

from redi import files
from redi.errors import UsageError
from redi.files import is_free, require_space, write_durably
from redi.knowledge_base.journal import Journal, all_shards, committed, journal_path
from redi.knowledge_base.manifest import Manifest, manifest_path
from redi.knowledge_base.writer import Writer
from redi.reading import open_below, refuse_link, sha256

_CHUNK = 4 << 20


def merge(target: Path, sources: list[Path]) -> int:
    """Copy into `target` the shards of `sources` that it lacks; returns how many were copied.

    All manifests must agree. A shard that two of them hold must be the same in both, so merging
    again, or going on after an interruption, changes nothing. Everything is checked before the
    first byte is written.
    """
    if not sources:
        raise UsageError("merge needs at least one KB to take shards from: name one")
    manifest = Manifest.read(sources[0])
    for source in sources:
        found = Manifest.read(source)
        manifest.require_same(found, source)
        if found.origin is not None:
            raise UsageError(
                f"{str(source)!r} is a subset, packed into shards that fit no other KB: "
                "merge the KBs that it was taken from, then take the subset"
            )
    if manifest_path(target).is_file():
        manifest.require_same(Manifest.read(target), target)
    planned = _plan(target, sources, manifest)
    require_space(target, sum(journal.bytes for _, journal in planned.values()))
    Writer(target, manifest, manifest.made_with or {})
    for _, (source, journal) in sorted(planned.items()):
        copy_shard(source, journal, target, manifest)
    return len(planned)


def _plan(target: Path, sources: list[Path], manifest: Manifest) -> dict[int, tuple[Path, Journal]]:
    """Which shard comes from where; refuses two that differ."""
    size, known = manifest.shard_size, {}
    if target.is_dir():
        known = {s: (target, Journal.read(target, s, manifest)) for s in all_shards(target)}
    there = set(known)
    for source in sources:
        for shard in all_shards(source):
            journal = Journal.read(source, shard, manifest)
            if shard not in known:
                known[shard] = (source, journal)
            elif known[shard][1].files != journal.files:
                first = shard * size
                raise UsageError(
                    f"{str(known[shard][0])!r} and {str(source)!r} both hold the trajectories "
                    f"{first} to {first + size - 1}, with different content: build disjoint "
                    "ranges (kb.first, kb.size), or leave one of them out"
                )
    return {shard: item for shard, item in known.items() if shard not in there}


def copy_shard(source: Path, journal: Journal, target: Path, manifest: Manifest) -> None:
    """Copy one shard's files, checking their hashes, and commit it."""
    for name, expected in journal.files.items():
        path = target / name
        refuse_link(path.parent)
        if path.is_file() and path.stat().st_size == expected["bytes"]:
            if sha256(path) == expected["sha256"]:
                continue  # an interrupted merge has placed it
        write_durably(path, partial(_copy, source, name, expected["sha256"]))
    if journal.commit(target):
        return
    if Journal.read(target, journal.shard, manifest).files != journal.files:
        raise UsageError(
            f"another writer has committed shard {journal.shard} of {str(target)!r} with other "
            "content: merge into another folder"
        )


def _copy(root: Path, name: str, expected: str, temporary: Path) -> None:
    digest, shown = hashlib.sha256(), f"the KB file {str(root / name)!r}"
    if not os.path.lexists(root / name):
        raise UsageError(f"{shown} is missing: run 'redi kb verify'")
    descriptor = open_below(root, name, "the KB file")
    with open(descriptor, "rb") as read, open(temporary, "wb") as written:
        while block := read.read(_CHUNK):
            digest.update(block)
            files.write(written.fileno(), block, temporary)
    if digest.hexdigest() != expected:
        raise UsageError(f"{shown} was altered (hash differs): leave it out")


def copy_kb(source: Path, target: Path) -> int:
    """Copy every committed shard into a new or interrupted copy; returns how many were copied."""
    manifest = Manifest.read(source)
    journals = [Journal.read(source, s, manifest) for s in all_shards(source)]
    if not journals:
        raise UsageError(f"{str(source)!r} has no complete shard: run 'redi kb build'")
    if not manifest_path(target).is_file() and not is_free(target):
        raise UsageError(f"{str(target)!r} holds something else: choose an empty folder")
    if manifest_path(target).is_file():
        found = Manifest.read(target)
        manifest.require_same(found, target)
        if found.origin != manifest.origin:
            raise UsageError(f"{str(target)!r} holds another selection: choose an empty folder")
    todo = [j for j in journals if not committed(target, j.shard)]
    for journal in journals:
        if committed(target, journal.shard):
            there = Journal.read(target, journal.shard, manifest)
            if there.files != journal.files:
                raise UsageError(
                    f"{str(journal_path(target, journal.shard))!r} is of another KB: "
                    "choose an empty folder"
                )
    require_space(target, sum(journal.bytes for journal in todo))
    Writer(target, manifest, manifest.made_with or {})
    for journal in todo:
        copy_shard(source, journal, target, manifest)
    return len(todo)
