"""`redi kb search`: the nearest trajectories of one prompt, as a table and a picture."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from rich.console import Console
from rich.table import Table

from redi.config import Config
from redi.data.pixels import to_pixels
from redi.errors import UsageError
from redi.knowledge_base import KnowledgeBase
from redi.knowledge_base.steps import step_group
from redi.lazy import torch
from redi.methods import Query, Setup
from redi.methods.plain import Full
from redi.methods.solve import solve
from redi.report.sheets import SheetRow, sheet
from redi.retrieval.opening import open_search
from redi.text import plain, say_on, shown
from redi.verbs.adopt import adopt, model_of
from redi.verbs.assemble import noise_from, sampler_from

_SHOWN = 6


def search_prompt(prompt: str, config: Config, kb: KnowledgeBase, console: Console) -> Path:
    """Print the nearest trajectories of `prompt` and write their final pictures; its path."""
    if not prompt.strip():
        raise UsageError('the prompt is empty: redi kb search "PROMPT" kb.dir=DIR')
    config = adopt(config, kb)
    model = model_of(config, kb)
    sampler, noise = sampler_from(config, model), noise_from(config)
    key_step, query_id = config.kb.key_step, noise.query_id(0)
    start = noise.draw([query_id], model.latent_shape).to(model.device)
    query = Query(start, (noise.partition(query_id),), (0,))
    full = Full().bind(Setup(sampler))
    own = solve(full, query, model, model.encode([prompt]), watch=(key_step,))
    search = open_search(
        kb,
        step_group(key_step),
        "latents",
        kb.partitions,
        config.retrieval.index,
        config.retrieval.rebuild_index,
        say_on(console),
    )
    wanted = config.retrieval.neighbours if config.retrieval.neighbours > 1 else _SHOWN
    count = min(wanted, search.smallest_partition())
    found = search.search(own.watched[key_step], [noise.partition(query_id)], count)
    rows, distances = found.rows[0].tolist(), found.distances[0].tolist()
    finished = kb.latents(sampler.num_steps, found.rows[0])
    pictures = to_pixels(
        model.decode(torch.cat([own.latents.cpu(), finished]).to(model.device)).cpu()
    )
    title = f"nearest to {prompt!r} after {key_step} of {sampler.num_steps} steps"
    table = Table(title=plain(title))
    for heading in ("rank", "trajectory", "distance", "prompt"):
        table.add_column(heading)
    for rank, (row, distance) in enumerate(zip(rows, distances, strict=True), 1):
        table.add_row(str(rank), str(kb.indices[row]), f"{distance:.3f}", plain(kb.prompts[row]))
    console.print(table)
    names = ["own", *(str(rank + 1) for rank in range(count))]
    notes = {
        name: f"{distance:.2f}: {shown(kb.prompts[row])}"
        for name, row, distance in zip(names[1:], rows, distances, strict=True)
    }
    row = SheetRow(shown(prompt), dict(zip(names, pictures, strict=True)), notes)
    path = Path(config.run_dir or "outputs/search") / picture_name(prompt)
    sheet([row], path, names, {"own": "its own full run"})
    console.print(plain(f"Picture: {path}"))
    return path


def picture_name(prompt: str) -> str:
    """File name of a prompt's picture; prompts that differ have different names."""
    words = re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")[:60]
    digest = hashlib.sha256(prompt.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{words or 'prompt'}-{digest}.png"
