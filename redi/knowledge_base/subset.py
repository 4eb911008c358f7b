"""Subsets: chosen trajectories of a knowledge base, packed into shards of their own."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from redi.errors import UsageError
from redi.files import is_free, require_space
from redi.knowledge_base.journal import committed, stated_error
from redi.knowledge_base.manifest import manifest_path
from redi.knowledge_base.reader import KnowledgeBase
from redi.knowledge_base.writer import Writer, predicted_bytes


@dataclass(frozen=True)
class Choice:
    """Which trajectories: those that contain `containing` and have noise `noise`, then `size`.

    Without a `seed` the first `size` of them are taken, with one a random draw.
    """

    size: int | None = None
    seed: int | None = None
    containing: str | None = None
    noise: int | None = None

    def rows(self, kb: KnowledgeBase) -> list[int]:
        """The chosen rows in their order; refuses an empty or too large choice."""
        rows = [
            row
            for row, (prompt, noise) in enumerate(zip(kb.prompts, kb.noise_ids, strict=True))
            if (self.containing is None or self.containing.lower() in prompt.lower())
            and (self.noise is None or self.noise == noise)
        ]
        if not rows:
            given = {"containing": self.containing, "noise": self.noise}
            asked = " and ".join(f"{name}={v!r}" for name, v in given.items() if v is not None)
            raise UsageError(
                f"no trajectory of {str(kb.root)!r} has {asked}: choose otherwise "
                "('redi kb info' shows what is there)"
            )
        if self.size is None:
            return rows
        if not 1 <= self.size <= len(rows):
            raise UsageError(
                f"size={self.size} does not fit the {len(rows)} trajectories to choose from: "
                f"use 1 to {len(rows)}"
            )
        if self.seed is None:
            return rows[: self.size]
        drawn = np.random.default_rng(self.seed).choice(len(rows), self.size, replace=False)
        return [rows[i] for i in sorted(drawn.tolist())]


def subset(source: KnowledgeBase, target: Path, rows: list[int]) -> int:
    """Write `rows` of `source` as a KB of its own, values bit for bit; returns shards written.

    The subset has the same manifest, so it serves the same queries; it cannot be grown by
    building. Interrupted, the same call goes on.
    """
    size = source.manifest.shard_size
    chosen = hashlib.sha256(repr(rows).encode()).hexdigest()[:12]
    origin = {"rows": len(rows), "of": source.content_hash[:12], "chosen": chosen}
    if not manifest_path(target).is_file() and not is_free(target):
        raise UsageError(f"{str(target)!r} holds something else: choose an empty folder")
    require_space(target, predicted_bytes(source.manifest, len(rows)))
    manifest = replace(source.manifest, origin=origin)
    writer = Writer(target, manifest, source.manifest.made_with or {})
    names = [f"{column.group}/{column.name}" for column in manifest.columns]
    errors = {name: stated_error(source.journals, name) for name in names}
    todo = [s for s in range(manifest.shards(len(rows))) if not committed(target, s)]
    for shard in todo:
        part = rows[shard * size : (shard + 1) * size]
        stored = {
            (column.group, column.name): source.stored(column.group, column.name, part)
            for column in manifest.columns
        }
        writer.write_stored(shard, stored, source.entries(part), errors)
    return len(todo)
