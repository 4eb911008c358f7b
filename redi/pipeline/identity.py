"""What has to be the same for a pipeline's call and a knowledge base to fit together."""

from __future__ import annotations

import hashlib
import inspect
import json
import math
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from redi.errors import UsageError
from redi.knowledge_base import KnowledgeBase
from redi.models.content import content_hash, weighted_parts
from redi.samplers import Sampler
from redi.samplers.build import kind_of

#: arguments that choose a query, its size (the latents tell) or its output, not its setting
_QUERY = (
    "self",
    "prompt",
    "prompt_2",
    "prompt_3",
    "batch_size",
    "generator",
    "latents",
    "height",
    "width",
    "num_inference_steps",
    "timesteps",
    "sigmas",
    "num_images_per_prompt",
    "output_type",
    "return_dict",
)
_QUERY_WORDS = ("prompt_embeds", "prompt_attention_mask", "callback")


def model_identity(pipe: Any) -> dict[str, Any]:
    """Content hash, dtype and sampler of a pipeline; `UsageError` where it has no weights."""
    present = weighted_parts(pipe)
    name, _ = kind_of(pipe.scheduler)
    return {
        "model_hash": content_hash(*present),
        "model_dtype": str(next(present[0].parameters()).dtype).removeprefix("torch."),
        "sampler": name,
    }


def schedule_identity(sampler: Sampler) -> dict[str, Any]:
    """Scheduler options (as set_timesteps leaves them, it may change some), steps and timesteps."""
    config = sampler.scheduler.config
    timesteps = [float(t) for t in sampler.scheduler.timesteps]
    return {
        "scheduler": {k: _plain(v) for k, v in sorted(config.items()) if k[0] != "_"},
        "steps": sampler.num_steps,
        "timesteps": [int(t) if t == int(t) else t for t in timesteps],
    }


def call_identity(call: Callable[..., Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of one pipeline call that shape every trajectory, such as guidance."""
    found = {}
    for name in inspect.signature(call).parameters:
        negative = name.startswith("negative")
        if name in _QUERY or (any(w in name for w in _QUERY_WORDS) and not negative):
            continue
        found[name] = _described(arguments[name], negative)
    return found


def stored_shape(latents: Tensor) -> tuple[int, ...]:
    """Shape of one sample's row in the KB: (C, H, W), or (1, S, C) for tokens (S, C)."""
    shape = tuple(latents.shape[1:])
    return shape if len(shape) == 3 else (1, *shape)


def require_same(kb: KnowledgeBase, mine: dict[str, Any]) -> None:
    """Refuse a KB that was made with another setting; names every field that differs.

    Fields that only one side knows are not compared: a KB that `redi kb build` made also records
    its data set and batch size, which a pipeline call does not have.
    """
    theirs = kb.manifest.identity
    mine = json.loads(json.dumps(mine))
    lines = [
        f"{name}: KB has {_short(theirs[name])}, the pipeline {_short(value)}"
        for name, value in mine.items()
        if name in theirs and theirs[name] != value
    ]
    if lines:
        raise UsageError(
            f"the KB {str(kb.root)!r} was recorded with another setting ({'; '.join(lines)}): "
            "call the pipeline as it was recorded, or record a KB for this setting"
        )


def _described(value: Any, negative: bool) -> Any:
    """A value as JSON: numbers and texts as they are, everything larger by its hash."""
    if isinstance(value, (list, tuple)) and value and all(item == value[0] for item in value):
        value = value[0] if isinstance(value[0], str) else value
    if value is None and negative:
        return ""
    if isinstance(value, Tensor):
        raw = value.detach().cpu().float().contiguous().numpy().data
        return f"tensor {hashlib.sha256(raw).hexdigest()[:16]}"
    try:
        return json.loads(json.dumps(value))
    except TypeError:
        return type(value).__name__


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
