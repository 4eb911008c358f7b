"""What writing and reading the store cost against the same bytes without it."""

from __future__ import annotations

import os
import shutil
from itertools import count
from pathlib import Path

import numpy as np
import torch
from synthetic import SHAPE, WIDTH, keys
from timing import in_turns

from redi.knowledge_base import Column, Entry, KnowledgeBase, Manifest, Writer

SHARD, NEIGHBOURS, BATCH = 1000, 5, 16  # keys per shard: 33 MB
KEY = ("step_0010", "latents")
MANIFEST = Manifest({"keys": "synthetic"}, (Column(*KEY, SHAPE, "float16"),), SHARD)


def entries(shard: int) -> list[Entry]:
    return [Entry(i, f"prompt {i}", 0) for i in range(shard * SHARD, (shard + 1) * SHARD)]


def make_keys(folder: Path, size: int) -> KnowledgeBase:
    """A KB of `size` synthetic keys in half precision; goes on where it was interrupted."""
    writer = Writer(folder / "keys", MANIFEST, {})
    for shard in writer.missing(size):
        writer.write(shard, {KEY: keys(shard * SHARD, SHARD)}, entries(shard))
    return KnowledgeBase(folder / "keys", size, hashes=False)


def write_ratio(kb: KnowledgeBase, folder: Path) -> dict[str, float]:
    """Appending shards to a KB of this size against one new file of the same bytes per shard.

    Both start from arrays in memory and end when everything is on the disk (fsync). The writer
    also turns full into half precision, hashes, and writes a prompt table and a journal entry.
    """
    copy, raw = folder / "appended", folder / "raw"
    shutil.copytree(kb.root, copy, copy_function=os.link)
    raw.mkdir()
    rows = keys(0, SHARD)
    data, size = rows.astype("f2").tobytes(), len(kb) // SHARD
    for path in (copy / "journal").glob("*.json"):
        if int(path.stem) >= size:  # the KB may be a prefix
            path.unlink()
    writer, ours, theirs = Writer(copy, MANIFEST, {}), count(size), count()

    def append() -> None:
        shard = next(ours)
        writer.write(shard, {KEY: rows}, entries(shard))

    def plain() -> None:
        with open(raw / f"{next(theirs)}", "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())

    mine, its = in_turns(9, append, plain)
    shutil.rmtree(copy)
    shutil.rmtree(raw)
    megabytes = len(data) / 1e6
    return {"MB/s": megabytes / mine, "raw MB/s": megabytes / its, "ratio": its / mine}


def read_ratio(kb: KnowledgeBase) -> dict[str, float]:
    """`gather` of 5 neighbours for 16 queries against raw memory-map reads, both into float32."""
    maps = []
    for journal in kb.journals:
        path = kb.root / str(journal.name(KEY[0]))
        with open(path, "rb") as file:
            offset = 8 + int.from_bytes(file.read(8), "little")
        maps.append(np.memmap(path, np.float16, "r", offset, (SHARD, WIDTH)))
    rng = np.random.default_rng(0)

    def drawn() -> torch.Tensor:
        return torch.from_numpy(rng.integers(len(kb), size=(BATCH, NEIGHBOURS)))

    def plain() -> None:
        rows = drawn().flatten().tolist()
        torch.from_numpy(np.stack([maps[r // SHARD][r % SHARD] for r in rows])).float()

    mine, its = in_turns(61, lambda: kb.gather(*KEY, drawn()), plain)
    return {"ms": 1e3 * mine, "raw ms": 1e3 * its, "ratio": mine / its}


def bytes_per_trajectory() -> dict[str, float]:
    """kB of key, its prediction, one value and the final latents, against all 50 steps in half."""
    found = {"every step, half (as published)": 50 * WIDTH * 2 / 1e3}
    for name, key, value in (
        ("full / full", "float32", "float32"),
        ("half / half", "float16", "float16"),
        ("half / int8", "float16", "int8"),
    ):
        columns = [Column("k", "latents", SHAPE, key)] + [Column("v", "x", SHAPE, value)] * 3
        found[f"keys / values: {name}"] = sum(column.row_bytes for column in columns) / 1e3
    return found
