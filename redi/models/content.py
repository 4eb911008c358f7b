"""What a pipeline's weights are, as one hash."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor, nn

from redi.errors import UsageError

#: parts of a pipeline whose weights shape a trajectory or its picture, in the order of hashing
_WEIGHTED = (
    "unet",
    "transformer",
    "text_encoder",
    "text_encoder_2",
    "text_encoder_3",
    "vae",
)


def weighted_parts(pipeline: Any) -> list[nn.Module]:
    """The modules of any pipeline that are hashed, in one order."""
    parts = [getattr(pipeline, name, None) for name in _WEIGHTED]
    return [getattr(p, "_orig_mod", p) for p in parts if isinstance(p, nn.Module)]


def content_hash(*modules: nn.Module) -> str:
    """SHA-256 over the names, types and values of all weights, and how LoRA layers use theirs.

    Raises:
        UsageError: weights are neither in memory nor offloaded by accelerate.
    """
    digest = hashlib.sha256()
    for module in modules:
        for name, tensor in sorted(_weights(module).items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            raw = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
            digest.update(raw.numpy().data)
        for name, part in module.named_modules():
            if hasattr(part, "lora_A"):
                digest.update(f"{name} {_adapters(part)}".encode())
    return digest.hexdigest()


def _weights(module: nn.Module) -> dict[str, Tensor]:
    """All weights of a module, read from where accelerate keeps those that it offloads."""
    found = module.state_dict()
    for prefix, part in module.named_modules():
        kept = getattr(getattr(part, "_hf_hook", None), "weights_map", None)
        if kept is None:
            continue
        for name, _ in part.named_parameters(recurse=False):
            place = f"{prefix}.{name}" if prefix else name
            if found[place].is_meta:
                found[place] = kept[name]
    if any(tensor.is_meta for tensor in found.values()):
        raise UsageError(
            f"weights of {type(module).__name__} are on the meta device, so there is nothing to "
            "run: load the pipeline with its weights"
        )
    return found


def _adapters(layer: Any) -> dict[str, Any]:
    """Which LoRA weights a layer uses, and how strongly: none of it is in the weights."""
    used = [] if layer.disable_adapters else layer.active_adapters
    return {
        "scaling": {name: layer.scaling[name] for name in used},
        "merged": list(layer.merged_adapters),
    }
