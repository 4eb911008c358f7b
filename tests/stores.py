"""A small KB of every precision, and changes that somebody makes who knows the format."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from redi.knowledge_base import Column, Entry, KnowledgeBase, Manifest, Writer
from redi.reading import sealed, sha256

SIZE = 4
COLUMNS = (
    Column("step_0002", "latents", (2, 3, 3)),
    Column("step_0002", "prediction", (2, 3, 3), "float16"),
    Column("step_0005", "latents", (2, 3, 3), "int8"),
)
MANIFEST = Manifest({"sampler": "ddim", "steps": 5, "key_step": 2}, COLUMNS, SIZE)


def arrays(shard: int) -> dict[tuple[str, str], np.ndarray]:
    rng = np.random.default_rng(shard)
    return {(c.group, c.name): rng.normal(size=(SIZE, *c.shape)).astype("f4") for c in COLUMNS}


def entries(shard: int) -> list[Entry]:
    return [Entry(i, f"prompt {i}", 0) for i in range(SIZE * shard, SIZE * (shard + 1))]


def fill(root: Path, shards: int = 2) -> Path:
    writer = Writer(root, MANIFEST, {})
    for shard in writer.missing(SIZE * shards):
        writer.write(shard, arrays(shard), entries(shard))
    return root


def reseal(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change a sealed JSON object as somebody would who knows how it is sealed."""
    content = json.loads(path.read_text())
    content.pop("checksum")
    content = change(content) or content
    path.write_text(json.dumps(sealed(content) if isinstance(content, dict) else content))


def replace_file(root: Path, group: str, write: Callable[[Path], object]) -> None:
    """Put another file of a group into shard 0, with a journal entry that fits it."""
    journal = root / "journal" / "00000.json"
    (name,) = (n for n in json.loads(journal.read_text())["files"] if n.startswith(group + "/"))
    write(root / name)
    described = {"bytes": (root / name).stat().st_size, "sha256": sha256(root / name)}
    reseal(journal, lambda content: content["files"].update({name: described}))


def read_all(root: Path) -> KnowledgeBase:
    kb = KnowledgeBase(root)
    for column in kb.manifest.columns:
        kb.column(column.group, column.name)
    assert len(kb.prompts) == len(kb.indices) == len(kb.noise_ids) == len(kb)
    return kb
