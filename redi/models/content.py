"""The weights of a module as one hash, computed again only where they may have changed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from redi.errors import UsageError
from redi.models.described import raw_bytes

_SAMPLED = 16  # values of each tensor that are looked at in every call

_KNOWN: WeakKeyDictionary[nn.Module, tuple[Any, str]] = WeakKeyDictionary()


def content_hash(module: nn.Module) -> str:
    """SHA-256 over the names, types and values of all weights.

    A hash is kept until the weights show a change: another tensor, a version counter that went on
    (every operation in place), or another value among 16 of each tensor. A change of a few values
    through `.data`, which has no counter, can go unnoticed.

    Raises:
        UsageError: weights are neither in memory nor offloaded by accelerate.
    """
    weights = _weights(module)
    seen = _seen(weights)
    if module not in _KNOWN or _KNOWN[module][0] != seen:
        _KNOWN[module] = seen, _digest(weights)
    return _KNOWN[module][1]


def _digest(weights: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(raw_bytes(tensor))
    return digest.hexdigest()


def _seen(weights: Mapping[str, Tensor]) -> Any:
    """What is looked at in every call; a move to another device leaves it as it is."""
    facts, samples = [], dict[Any, list[Tensor]]()
    for name, tensor in weights.items():
        version = 0 if tensor.is_inference() else tensor._version
        facts.append((name, id(tensor), version, tensor.dtype, tensor.shape))
        samples.setdefault((tensor.device, tensor.dtype), []).append(_sample(tensor.detach()))
    return facts, [bytes(raw_bytes(torch.cat(part))) for part in samples.values()]


def _sample(tensor: Tensor) -> Tensor:
    """Evenly spaced values, without a copy of tensors in any memory order."""
    count = min(_SAMPLED, tensor.numel())
    stride = tensor.numel() // max(1, count)
    room = tensor.untyped_storage().nbytes() // tensor.element_size() - tensor.storage_offset()
    if (count - 1) * stride >= room:  # expanded: fewer values than elements
        return tensor.flatten()[:count]
    return tensor.as_strided((count,), (stride,), tensor.storage_offset())


def _weights(module: nn.Module) -> dict[str, Tensor]:
    """All weights of a module, read from where accelerate keeps those that it offloads."""
    found = dict(module.state_dict(keep_vars=True))
    for prefix, part in module.named_modules():
        kept = getattr(vars(part).get("_hf_hook"), "weights_map", None)
        if kept is None:
            continue
        for name, _ in part.named_parameters(recurse=False):
            place = f"{prefix}.{name}" if prefix else name
            if found[place].is_meta:
                found[place] = kept[name]
    found = {k.replace("_orig_mod.", ""): v for k, v in found.items() if isinstance(v, Tensor)}
    if any(tensor.is_meta for tensor in found.values()):
        raise UsageError(
            f"weights of {type(module).__name__} are on the meta device, so there is nothing to "
            "run: load the pipeline with its weights"
        )
    return found
