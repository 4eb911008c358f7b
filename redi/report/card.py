"""The dataset card of an exported knowledge base."""

from __future__ import annotations

import json
from pathlib import Path

from redi.files import write_durably
from redi.knowledge_base import Journal, Manifest, all_shards, stated_error
from redi.text import markdown_cell

_CARD = """\
---
pretty_name: redi knowledge base ({sampler}, {steps} steps)
tags: [diffusion, trajectories, redi]
configs:
- config_name: prompts
  data_files: prompts/*.parquet
---

# Knowledge base of sampling trajectories

{count} finished trajectories of a text-to-image diffusion model, for ReDi (learning-free inference
by trajectory retrieval, [Zhang et al., ICML 2023](https://arxiv.org/abs/2302.02285)).

| what | value |
|---|---|
{rows}

| column | shape | stored as | relative RMS error |
|---|---|---|---|
{columns}

`manifest.json` says how it was made, `journal/` lists every file with its hash, `prompts/` holds
index, prompt and noise id, and each `step_*/` the latents after that many sampler updates
(safetensors; 8-bit columns come with `.scale`, one number per channel: value = scale * integer).

Check it with `redi kb verify FOLDER`, take it in with `redi kb import FOLDER TARGET`.
"""


def write_card(root: Path, manifest: Manifest) -> None:
    """Write `README.md` into an exported knowledge base."""
    journals = [Journal.read(root, s, manifest) for s in all_shards(root)]
    identity = manifest.identity
    shown = ("sampler", "steps", "key_step", "stored_steps", "guidance_scale", "noise_policy",
             "noise_seed", "model_hash", "data")  # fmt: skip
    rows = [f"| {n} | {markdown_cell(json.dumps(identity[n]))} |" for n in shown if n in identity]
    columns = [
        f"| {c.group}/{c.name} | {list(c.shape)} | {c.dtype} | "
        f"{stated_error(journals, f'{c.group}/{c.name}'):.1e} |"
        for c in manifest.columns
    ]
    text = _CARD.format(
        sampler=markdown_cell(identity.get("sampler")),
        steps=identity.get("steps"),
        count=sum(journal.rows for journal in journals),
        rows="\n".join(rows),
        columns="\n".join(columns),
    )
    write_durably(root / "README.md", lambda temporary: temporary.write_text(text))
