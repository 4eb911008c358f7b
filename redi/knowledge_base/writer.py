"""Writing a knowledge base: shards, each committed by its journal entry."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from redi import files
from redi.errors import UsageError
from redi.files import (
    disk_errors,
    is_free,
    require_space,
    sweep_partials,
    temporary_name,
    usable_folder,
)
from redi.knowledge_base.arrays import laid_out
from redi.knowledge_base.journal import Journal, all_shards, prefix
from redi.knowledge_base.manifest import FORMAT, Column, Manifest, manifest_path
from redi.knowledge_base.precision import NotFinite, encode
from redi.knowledge_base.prompts import Entry, laid_out_table
from redi.knowledge_base.steps import step_of
from redi.reading import refuse_link

_HASHED = 12  # digits of a file's hash in its name
_CHUNK = 4 << 20  # bytes written at a time
_ROW_OVERHEAD = 512  # bytes of a prompt, its share of headers and journals


class Writer:
    """Writes shards of one knowledge base; no writer ever waits for another.

    A shard's files carry a hash of their content in their names, so writers of the same shard
    never touch each other's files; the journal entry comes last, and only the first one counts.
    Killed at any point, the next writer does that shard again and nothing else.
    """

    def __init__(self, root: Path, manifest: Manifest, made_with: dict[str, str]) -> None:
        self.root, self.manifest = root, manifest
        if not usable_folder(root, "kb.dir") or not os.path.lexists(manifest_path(root)):
            if not is_free(root):
                raise UsageError(
                    f"kb.dir={str(root)!r} holds something else: choose an empty or new folder"
                )
            replace(manifest, made_with=made_with).write(root)
        found = Manifest.read(root)
        manifest.require_same(found, root)
        if found.origin != manifest.origin:
            what = "whole shards of its recipe"
            if found.origin:
                what = f"a subset of {found.origin['rows']} trajectories"
            raise UsageError(
                f"kb.dir={str(root)!r} holds {what} and cannot be grown with something else: "
                "choose another folder"
            )
        if found.format < FORMAT:
            found.upgrade(root)
        sweep_partials(root)

    def missing(self, count: int, first: int = 0) -> list[int]:
        """Shards still needed for the trajectories `first` to `first + count - 1`.

        Refuses a disk that is too full for them, and a range that does not start with a shard.
        """
        size = self.manifest.shard_size
        if first < 0 or first % size:
            raise UsageError(
                f"kb.first={first} does not start a shard: use a multiple of kb.shard_size={size}"
            )
        if count < 1:
            raise UsageError(f"kb.size={count} is too small: use at least 1")
        shards = range(first // size, self.manifest.shards(first + count))
        there = {shard for shard in all_shards(self.root) if shard in shards}
        lacking = len(shards) - len(there)  # before a list of them, which may not fit into memory
        require_space(self.root, predicted_bytes(self.manifest, lacking * size))
        return [shard for shard in shards if shard not in there]

    def write(
        self, shard: int, arrays: dict[tuple[str, str], np.ndarray], entries: list[Entry]
    ) -> bool:
        """Write one shard: for each column (group, name) an array of `shard_size` rows.

        Returns False where another writer has committed this shard in the meantime; its shard is
        the one that stays.
        """
        size = self.manifest.shard_size
        return self._write_rows(shard, shard * size, size, arrays, entries)

    def append(self, arrays: dict[tuple[str, str], np.ndarray], entries: list[Entry]) -> bool:
        """Write the next shard after those there, of at most `shard_size` rows; else as `write`."""
        there = prefix(self.root, self.manifest)
        if not 1 <= len(entries) <= self.manifest.shard_size:
            raise ValueError(f"{len(entries)} rows in a shard of {self.manifest.shard_size}")
        first = sum(journal.rows for journal in there)
        return self._write_rows(len(there), first, len(entries), arrays, entries)

    def _write_rows(
        self,
        shard: int,
        first: int,
        size: int,
        arrays: dict[tuple[str, str], np.ndarray],
        entries: list[Entry],
    ) -> bool:
        if [entry.index for entry in entries] != list(range(first, first + size)):
            raise ValueError(f"shard {shard} needs the entries {first} to {first + size - 1}")
        stored, errors = {}, {}
        for column in sorted(self.manifest.columns, key=lambda c: (step_of(c.group) or 0, c.name)):
            key, array = (column.group, column.name), arrays[column.group, column.name]
            if array.shape != (size, *column.shape):
                raise ValueError(f"{column.group}/{column.name} has shape {array.shape}")
            what = f"{column.group}/{column.name} of shard {shard}"
            try:
                stored[key], errors["/".join(key)] = encode(array, column.dtype, what)
            except NotFinite as error:
                raise UsageError(_not_finite(column, entries[error.row])) from None
        return self.write_stored(shard, stored, entries, errors)

    def write_stored(
        self,
        shard: int,
        stored: dict[tuple[str, str], dict[str, np.ndarray]],
        entries: Sequence[Entry],
        errors: dict[str, float],
    ) -> bool:
        """Write one shard of arrays that are encoded already (see `precision.encode`)."""
        pieces: list[tuple[str, str, list[memoryview]]] = []
        for group in self.manifest.groups:
            tensors = {
                name + suffix: array
                for (its, name), arrays in stored.items()
                for suffix, array in arrays.items()
                if its == group
            }
            pieces.append((group, "safetensors", laid_out(tensors)))
        pieces.append(("prompts", "parquet", [memoryview(laid_out_table(entries))]))
        with disk_errors(self.root):
            found = self._place(shard, pieces)
        won = Journal(shard, len(entries), found, errors).commit(self.root)
        if not won:
            self._withdraw(shard, set(found))
        return won

    def _place(
        self, shard: int, pieces: list[tuple[str, str, list[memoryview]]]
    ) -> dict[str, dict[str, Any]]:
        """Put a shard's files on the disk under their final names.

        Files are hashed and written at the same time: neither waits for the other.
        """
        temporaries: list[Path] = []
        finals: list[Path] = []
        placed: dict[str, dict[str, Any]] = {}
        try:
            with ThreadPoolExecutor(4) as pool:
                written, hashed = [], []
                for group, kind, parts in pieces:
                    label = self.root / group / f"{shard:05d}.{kind}"
                    files.make_folder(label.parent)
                    refuse_link(label.parent)
                    temporaries.append(temporary_name(label))
                    written.append(pool.submit(_write, temporaries[-1], parts, label))
                    hashed.append(pool.submit(_hash, parts))
                for done in written:
                    done.result()
                for (group, kind, parts), digest in zip(pieces, hashed, strict=True):
                    name = f"{shard:05d}-{digest.result()[:_HASHED]}.{kind}"
                    finals.append(self.root / group / name)
                    size = sum(map(len, parts))
                    placed[f"{group}/{name}"] = {"bytes": size, "sha256": digest.result()}
                for temporary, path in zip(temporaries, finals, strict=True):
                    files.replace(temporary, path)
                for done in [pool.submit(files.sync_folder, path.parent) for path in finals]:
                    done.result()
        finally:
            for temporary in temporaries:
                files.remove(temporary)
        return dict(sorted(placed.items()))

    def _withdraw(self, shard: int, mine: set[str]) -> None:
        """Remove files of a shard that another writer has committed with other content."""
        winner = Journal.read(self.root, shard, self.manifest).files
        for name in mine - set(winner):
            files.remove(self.root / name)


def _not_finite(column: Column, entry: Entry) -> str:
    step = step_of(column.group)
    where = f"after step {step}" if step is not None else f"in {column.group}"
    return (
        f"trajectory {entry.index} ({entry.prompt[:80]!r}) has {column.name} that is not finite "
        f"{where}, so its shard is not kept: the model or the sampler gave it, most often by "
        "overflow of float16 (use float32 or bfloat16) or by a schedule that does not fit the model"
    )


def _write(temporary: Path, parts: list[memoryview], label: Path) -> None:
    """Write a new file and wait until it is on the disk."""
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        for part in parts:
            for start in range(0, len(part), _CHUNK):
                files.write(descriptor, part[start : start + _CHUNK], label)
        files.sync(descriptor, label)
    finally:
        os.close(descriptor)


def _hash(parts: list[memoryview]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def predicted_bytes(manifest: Manifest, rows: int) -> int:
    """Bytes on disk that so many trajectories will need; a little more than the arrays."""
    return rows * (manifest.row_bytes + _ROW_OVERHEAD)
