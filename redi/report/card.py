"""The dataset card of an exported knowledge base."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from redi.errors import UsageError
from redi.files import write_durably
from redi.knowledge_base import Journal, Manifest, all_shards, stated_error, step_of
from redi.text import markdown_cell

_CARD = """\
---
pretty_name: redi knowledge base ({sampler}, {steps} steps)
tags: [diffusion, trajectories, redi]
license: {licence}
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

## Use it

```console
redi kb import FOLDER my-kb              # this folder, checked; or hf://OWNER/NAME
redi demo kb=my-kb                       # if redi made it: compare methods in the browser
```

```python
import redi

with redi.enable(pipe, "hf://OWNER/NAME", {method}):  # the pipeline below
    image = pipe(prompt, generator=redi.generators("hf://OWNER/NAME"), **call).images[0]
```

It serves the model that it was made with and no other; a call that does not fit is refused with the
fields that differ. Model and call:

```json
{identity}
```

Licence: {terms}. The trajectories come from the model and the prompts, whose own terms hold.
"""
_NO_LICENCE = "unknown"  # a name that the hub knows
_LICENCE = re.compile(r"[a-z0-9]+([.-][a-z0-9]+)*")


def licence(name: str) -> str:
    """A licence as the hub names it, such as apache-2.0; refuses what cannot be one."""
    if not _LICENCE.fullmatch(name):
        raise UsageError(
            f"license={name!r} is no name of a licence: write it as the hub does, such as "
            "apache-2.0 or cc-by-4.0"
        )
    return name


def write_card(root: Path, manifest: Manifest, terms: str | None = None) -> None:
    """Write `README.md` into an exported knowledge base; `terms`: the licence, if it is named."""
    journals = [Journal.read(root, s, manifest) for s in all_shards(root)]
    identity = manifest.identity
    shown = ("sampler", "steps", "key_step", "key_steps", "stored_steps", "guidance_scale",
             "noise_policy", "noise_seed", "model_hash", "data")  # fmt: skip
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
        licence=terms or _NO_LICENCE,
        terms=terms or "not stated by who exported it",
        method=_method(manifest),
        identity=_fenced(identity),
    )
    write_durably(root / "README.md", lambda temporary: temporary.write_text(text, "utf-8"))


def _fenced(identity: Mapping[str, Any]) -> str:
    """What the KB says of its making but its timesteps, as JSON that ends no code block."""
    text = json.dumps(
        {key: value for key, value in identity.items() if key != "timesteps"}, indent=1
    )
    return text.replace("`", "\\u0060")


def _method(manifest: Manifest) -> str:
    """The arguments of `enable` that fit the KB: a jump, or what has to be fitted first."""
    key = manifest.identity.get("key_step")
    steps = sorted(
        {s for c in manifest.columns if (s := step_of(c.group)) is not None and key and s > key}
    )
    if not steps:
        return '"best", num_inference_steps=5'
    return f"value_step={steps[len(steps) // 2]}"
