"""Reading a knowledge base: a snapshot of the shards that were complete when it was opened."""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from functools import cached_property
from itertools import accumulate
from pathlib import Path

import numpy as np

from redi.errors import UsageError
from redi.knowledge_base.journal import all_shards, journal_path, prefix
from redi.knowledge_base.manifest import Manifest
from redi.knowledge_base.precision import first_not_finite, within
from redi.knowledge_base.rows import Rows
from redi.knowledge_base.steps import step_group, step_of
from redi.knowledge_base.verify import check_files
from redi.lazy import Tensor
from redi.reading import sha256


class KnowledgeBase(Rows):
    """The first `count` trajectories of a knowledge base (all complete shards by default)."""

    def __init__(self, root: Path, count: int | None = None, hashes: bool = True) -> None:
        manifest = Manifest.read(root)
        journals = prefix(root, manifest)
        available = sum(journal.rows for journal in journals)
        if available == 0:
            raise UsageError(f"kb.dir={str(root)!r} has no complete shard: {_way_on(root)}")
        if manifest.origin is not None and available != manifest.origin["rows"]:
            raise UsageError(
                f"kb.dir={str(root)!r} is a subset that was interrupted at {available} of "
                f"{manifest.origin['rows']} trajectories: run the same command again"
            )
        chosen = available if count is None else count
        if chosen < 1:
            raise UsageError(f"kb.size={count} is too small: use at least 1")
        if chosen > available:
            raise UsageError(
                f"kb.size={count} is more than the {available} trajectories in "
                f"{str(root)!r}: ask for fewer, or grow a KB of your own ('redi kb build')"
            )
        needed = bisect_left(list(accumulate(j.rows for j in journals)), chosen) + 1
        self.shards = range(needed)
        super().__init__(root, manifest, journals[:needed], chosen)
        for journal in self.journals:
            check_files(root, journal, hashes)

    def first(self, count: int) -> KnowledgeBase:
        """Its first trajectories: itself where it has no more than so many."""
        return self if count >= self.count else KnowledgeBase(self.root, count, hashes=False)

    @cached_property
    def content_hash(self) -> str:
        """One hash over the manifest's identity and the journals of the shards in use."""
        journals = "".join(sha256(journal_path(self.root, shard)) for shard in self.shards)
        text = self.manifest.digest + journals + str(self.count)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def disk_bytes(self) -> int:
        """Bytes on disk of the shards in use."""
        return sum(journal.bytes for journal in self.journals)

    @cached_property
    def partitions(self) -> np.ndarray:
        """Noise partition of each trajectory, int64 (count,); 0 unless the KB has a noise bank."""
        if self.manifest.identity.get("noise_policy") == "bank":
            return self.noise_ids
        return np.zeros(self.count, np.int64)

    @property
    def key_step(self) -> int | None:
        """The step that queries are compared at, the first of several; None: there is none."""
        return self.manifest.identity.get("key_step")

    @property
    def key_steps(self) -> tuple[int, ...]:
        """All steps that queries can be compared at, ascending."""
        first = () if self.key_step is None else (self.key_step,)
        return tuple(self.manifest.identity.get("key_steps", first))

    @cached_property
    def stored_steps(self) -> tuple[int, ...]:
        """Steps whose latents are stored, ascending."""
        steps = (step_of(c.group) for c in self.manifest.columns if c.name == "latents")
        return tuple(sorted(step for step in steps if step is not None))

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """Shape of one trajectory's latents: (C, H, W), or (1, S, C) for tokens."""
        return next(c.shape for c in self.manifest.columns if c.name == "latents")

    def stores(self, step: int, name: str) -> bool:
        """Whether `name` ("latents", "prediction" or "history") is stored after `step` updates."""
        return (step_group(step), name) in self._columns

    def latents(self, step: int, rows: Tensor | None = None) -> Tensor:
        """Latents after `step` updates: float32 (*rows.shape, C, H, W).

        `rows` are trajectory numbers of any shape; None: all, (count, C, H, W).
        """
        return self._state(step, "latents", rows)

    def prediction(self, step: int, rows: Tensor | None = None) -> Tensor:
        """The last noise prediction before the state after `step` updates; shaped as `latents`."""
        return self._state(step, "prediction", rows)

    def history(self, step: int, rows: Tensor | None = None) -> Tensor:
        """What the sampler carries after `step` updates: float32 (*rows.shape, n, C, H, W)."""
        return self._state(step, "history", rows)

    def embeddings(self, rows: Tensor | None = None) -> Tensor:
        """Prompt embeddings: float32 (*rows.shape, E)."""
        if rows is None:
            return self.column("prompt", "embedding")
        return self.gather("prompt", "embedding", rows)

    def _state(self, step: int, name: str, rows: Tensor | None) -> Tensor:
        if not self.stores(step, name):
            known = [s for s in self.stored_steps if self.stores(s, name)]
            raise UsageError(
                f"the KB {str(self.root)!r} stores no {name} after step {step} (stored: "
                f"{', '.join(map(str, known)) or 'none'}): use one of these or build it again"
            )
        group = step_group(step)
        found = self.column(group, name) if rows is None else self.gather(group, name, rows)
        if not within(found):
            flat = found.reshape(-1, *self._columns[group, name].shape)
            place = first_not_finite(flat) or 0
            row = place if rows is None else int(rows.flatten()[place])
            raise UsageError(
                f"the KB {str(self.root)!r} holds {name} after step {step} of trajectory {row} "
                "that is not finite: leave that trajectory out ('redi kb subset') or build again"
            )
        return found


def complete_count(root: Path, manifest: Manifest) -> int:
    """Trajectories in the unbroken run of complete shards from the first."""
    return sum(journal.rows for journal in prefix(root, manifest))


def _way_on(root: Path) -> str:
    shards = all_shards(root)
    if not shards:
        return "run 'redi kb build'"
    return f"it is a part that starts at shard {shards[0]}; 'redi kb merge' it with the others"
