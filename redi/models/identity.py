"""What decides a result, by content: of a model, of a schedule, of a pipeline's call.

The framework's own loop, users' pipelines and the cache of reference runs all compare these.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from redi.errors import UsageError
from redi.knowledge_base import KnowledgeBase
from redi.knowledge_base.differences import differences
from redi.models.described import described
from redi.models.parts import describe_parts, parts_of
from redi.samplers import Sampler
from redi.samplers.build import kind_of

#: arguments that choose a query or its output; the schedule and the latents tell the others
_QUERY = (
    "self",
    "prompt",
    "prompt_2",
    "prompt_3",
    "batch_size",
    "generator",
    "latents",
    "num_inference_steps",
    "timesteps",
    "sigmas",
    "num_images_per_prompt",
    "num_videos_per_prompt",
    "output_type",
    "return_dict",
)
_QUERY_WORDS = ("prompt_embeds", "prompt_attention_mask", "callback")
_SIDES = ("height", "width")


@dataclass(frozen=True)
class Identity:
    """What decides a result, field by field, as JSON."""

    fields: dict[str, Any]
    #: what a KB had where it does not name a field
    usual: dict[str, Any] = field(default_factory=dict)

    def __or__(self, other: Identity) -> Identity:
        return Identity({**self.fields, **other.fields}, {**self.usual, **other.usual})

    @property
    def digest(self) -> str:
        """SHA-256 of all fields."""
        return hashlib.sha256(json.dumps(self.fields, sort_keys=True).encode()).hexdigest()

    def differences(self, theirs: Mapping[str, Any]) -> list[str]:
        """One line for each field that a KB's description has otherwise.

        Fields that only one side knows are not compared: a KB that `redi kb build` made also notes
        its data set, which a pipeline's call does not have.
        """
        known = {**self.usual, **theirs}
        both = [name for name in self.fields if name in known]
        its, mine = ({name: side[name] for name in both} for side in (known, self.fields))
        lines = differences(its, mine, "the pipeline")
        if any(line.startswith("model.") for line in lines):  # they say where the hash differs
            lines = [line for line in lines if not line.startswith("model_hash:")]
        return lines


def model_identity(pipe: Any) -> Identity:
    """Class, weights, settings and changes of every part of a pipeline.

    Computed again before every call; hashes of weights are kept while nothing shows a change (see
    `content_hash`). Not seen: values that hooks and patched functions keep to themselves, what a
    step callback does, and a change of few values through a tensor's `.data`.

    Raises:
        UsageError: the pipeline has no weights.
    """
    parts = describe_parts(pipe)
    networks = {k: v for k, v in parts_of(pipe).items() if isinstance(v, nn.Module)}
    if not networks:
        raise UsageError(f"{type(pipe).__name__} has no network: load the pipeline with its parts")
    names = ("unet", "transformer", *networks)
    network = next(networks[name] for name in names if name in networks)
    dtype = str(next(network.parameters()).dtype).removeprefix("torch.")
    whole = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
    kind = type(pipe).__name__
    return Identity({"model_hash": whole, "model": parts, "model_dtype": dtype, "pipeline": kind})


def schedule_identity(sampler: Sampler) -> Identity:
    """Sampler, scheduler options (`set_timesteps` may change some), steps and timesteps."""
    scheduler = sampler.scheduler
    timesteps = [float(t) for t in scheduler.timesteps]
    return Identity(
        {
            "sampler": kind_of(scheduler)[0],
            "scheduler": {k: _plain(v) for k, v in sorted(scheduler.config.items()) if k[0] != "_"},
            "steps": sampler.num_steps,
            "timesteps": [int(t) if t == int(t) else t for t in timesteps],
        }
    )


def call_identity(pipe: Any, call: Callable[..., Any], arguments: Mapping[str, Any]) -> Identity:
    """The arguments of one pipeline call that shape every trajectory, such as guidance.

    Args:
        call: the pipeline's own `__call__`, whose defaults a KB had that notes no such argument.
        arguments: all of them, defaults included.
    """
    fields, usual = {}, {}
    for name, parameter in inspect.signature(call).parameters.items():
        negative = name.startswith("negative")
        if name in _QUERY or (any(w in name for w in _QUERY_WORDS) and not negative):
            continue
        if name in _SIDES:
            fields[name] = _side(pipe, name, arguments[name])
            continue
        fields[name] = _argument(pipe, name, arguments[name])
        if parameter.default is not inspect.Parameter.empty:
            usual[name] = _argument(pipe, name, parameter.default)
    return Identity(fields, usual)


def stored_shape(latents: Tensor) -> tuple[int, ...]:
    """Shape of one sample's row in the KB: (C, H, W), or (1, S, C) for tokens (S, C)."""
    shape = tuple(latents.shape[1:])
    return shape if len(shape) == 3 else (1, *shape)


def require_same(kb: KnowledgeBase, mine: Identity) -> None:
    """Refuse a KB that was made with another setting; names every field that differs."""
    if lines := mine.differences(kb.manifest.identity):
        raise UsageError(
            f"the KB {str(kb.root)!r} was recorded with another setting ({'; '.join(lines)}): "
            "call the pipeline as it was recorded, or record a KB for this setting"
        )


def _argument(pipe: Any, name: str, value: Any) -> Any:
    found = described(value, name, batched="embeds" in name)
    if not name.startswith("negative_prompt"):
        return found
    if found == "" and pipe.config.get("force_zeros_for_empty_prompt"):
        return "(an encoded blank)"  # without a negative prompt this pipeline encodes nothing
    return "" if found is None else found


def _side(pipe: Any, name: str, value: Any) -> Any:
    """A picture's height or width; the pipeline's own where none is given, if it says which."""
    if value is not None:
        return described(value, name)
    networks = (getattr(pipe, name, None) for name in ("unet", "transformer"))
    network = next((found for found in networks if found is not None), None)
    own = getattr(pipe, "default_sample_size", None)
    if own is None:
        own = getattr(getattr(network, "config", None), "sample_size", None)
    if isinstance(own, (list, tuple)):
        own = own[_SIDES.index(name)]
    scale = getattr(pipe, "vae_scale_factor", None)
    return None if own is None or scale is None else int(own) * int(scale)


def _plain(value: Any) -> Any:
    """JSON has no infinities, which schedulers use as "no limit"."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
