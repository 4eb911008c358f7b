"""What a KB holds, and whether it is as it was written: no model is needed for either."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table

from redi.files import free_bytes
from redi.knowledge_base import (
    Journal,
    KnowledgeBase,
    Manifest,
    all_shards,
    leftovers,
    stated_error,
    verify,
)
from redi.text import plain, say_on, shown


def verify_folder(root: Path, console: Console) -> None:
    """Check every hash, and say what belongs to no shard."""
    manifest, shards = Manifest.read(root), all_shards(root)
    checked = verify(root, shards)
    say = say_on(console)
    say(f"{checked} files of {len(shards)} shards are as they were written: {root}")
    for path in leftovers(root, manifest):
        say(f"Of no shard, safe to delete when nobody writes: {path}")


def describe(root: Path, console: Console) -> None:
    """Print what a KB, or a part of one, holds and what it costs."""
    manifest, shards = Manifest.read(root), all_shards(root)
    size, identity = manifest.shard_size, manifest.identity
    journals = [Journal.read(root, shard, manifest) for shard in shards]
    count, used = sum(j.rows for j in journals), sum(j.bytes for j in journals)
    table = Table(title=plain(root), show_header=False)
    rows = {
        "trajectories": f"{count} in {len(shards)} shards{_range(shards, size)}",
        "origin": _origin(manifest),
        "disk use": f"{used / 1e6:.2f} MB, {used / max(count, 1) / 1e3:.1f} kB each, "
        f"indexes {_index_bytes(root) / 1e6:.2f} MB, {free_bytes(root) / 1e9:.1f} GB free",
        "sampler": f"{identity.get('sampler')}, {identity.get('steps')} steps",
        "key steps": ", ".join(map(str, identity.get("key_steps", [identity.get("key_step")]))),
        "stored steps": ", ".join(map(str, identity.get("stored_steps", []))),
        "guidance scale": str(identity.get("guidance_scale")),
        "noise": f"{identity.get('noise_policy')}, {identity.get('noise_bank_size')} noises, "
        f"seed {identity.get('noise_seed')}",
        "model": str(identity.get("model_hash"))[:12],
    }
    if shards and shards[0] == 0:
        kb = KnowledgeBase(root, hashes=False)
        rows["content"] = kb.content_hash[:12]
        rows["prompts"] = f"{len(set(kb.prompts))} different, first: {shown(kb.prompts[0][:200])}"
    for column in manifest.columns:
        name = f"{column.group}/{column.name}"
        error = stated_error(journals, name)
        rows[name] = f"{list(column.shape)} {column.dtype}, {column.row_bytes / 1e3:.1f} kB" + (
            f", relative error {error:.1e}" if column.dtype != "float32" else ", exact"
        )
    for name, value in rows.items():
        table.add_row(plain(name), plain(value))
    console.print(table)


def _origin(manifest: Manifest) -> str:
    if manifest.origin is None:
        return "whole shards of its recipe"
    rows, source, chosen = (manifest.origin[name] for name in ("rows", "of", "chosen"))
    return f"subset: {rows} trajectories of the KB with content {source} (choice {chosen})"


def _range(shards: list[int], size: int) -> str:
    if not shards or shards == list(range(len(shards))):
        return ""
    return f", a part: {shards[0] * size} to {(shards[-1] + 1) * size - 1}; merge it to use it"


def _index_bytes(root: Path) -> int:
    paths = [] if (root / "index").is_symlink() else (root / "index").rglob("*")
    return sum(path.lstat().st_size for path in paths if not path.is_dir())
