"""`redi kb build | info | verify`."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table

from redi.config import Config
from redi.knowledge_base import KnowledgeBase, Manifest, complete_count, verify
from redi.tasks.assemble import check, manifest_from, model_from, sampler_from
from redi.tasks.build_kb import build, kb_root


def kb_action(action: str, config: Config, console: Console) -> None:
    """Build, describe or check the KB that a configuration names."""
    setting = check(config)
    if config.kb.dir is not None and action != "build":
        root = Path(config.kb.dir)
    else:
        sampling = config.sampling
        model = model_from(config.model, sampling.guidance_scale, sampling.negative_prompt)
        if action == "build":
            root = build(config, setting, model, console.print).root
        else:
            manifest = manifest_from(config, setting, model, sampler_from(config, model))
            root = kb_root(config, manifest)
    manifest = Manifest.read(root)
    if action == "verify":
        shards = range(manifest.shards(complete_count(root, manifest)))
        files = verify(root, shards)
        console.print(f"{files} files of {len(shards)} shards are as they were written: {root}")
        return
    console.print(_table(KnowledgeBase(root, hashes=False)))


def _table(kb: KnowledgeBase) -> Table:
    identity = kb.manifest.identity
    table = Table(title=str(kb.root), show_header=False)
    rows = {
        "trajectories": f"{len(kb)} in {len(kb.shards)} shards",
        "on disk": f"{kb.disk_bytes / 1e6:.2f} MB, {kb.disk_bytes / len(kb) / 1e3:.1f} kB each",
        "sampler": f"{identity['sampler']}, {identity['steps']} steps",
        "stored steps": ", ".join(map(str, identity["stored_steps"])),
        "guidance scale": str(identity["guidance_scale"]),
        "noise": f"{identity['noise_policy']}, seed {identity['noise_seed']}",
        "model": identity["model_hash"][:12],
        "content": kb.content_hash[:12],
        "first prompt": kb.prompts[0],
    }
    for name, value in rows.items():
        table.add_row(name, value)
    return table
