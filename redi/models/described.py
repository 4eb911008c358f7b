"""Values as JSON by their content: equal values are equal texts, whatever object holds them."""

from __future__ import annotations

import enum
import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from redi.errors import UsageError

_DIGITS = 12  # of a hash that is shown
_FIGURES = 7  # of a number: what float32 can tell apart


def described(value: Any, name: str, batched: bool = False) -> Any:
    """A value as JSON: numbers and texts as they are, arrays and images by shape and hash.

    A batch of equal texts, images or arrays is described by one of them. Numbers count with the
    seven figures that float32 has.

    Args:
        name: of the argument, for the error.
        batched: whether the first axis of an array of any rank numbers samples.

    Raises:
        UsageError: an object whose content cannot be seen.
    """
    if isinstance(value, Tensor):
        value = value.item() if value.dim() == 0 else value
    elif isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return float(f"{value:.{_FIGURES}g}") if math.isfinite(value) else str(value)
    if isinstance(value, (Tensor, np.ndarray)):
        return _array(torch.as_tensor(value), batched)
    if isinstance(value, enum.Enum):
        return described(value.value, name)
    if isinstance(value, (torch.dtype, torch.device)):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): described(item, f"{name}[{key!r}]") for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return _sequence([described(item, name, batched) for item in value])
    if isinstance(value, (set, frozenset)):
        return sorted((described(item, name) for item in value), key=json.dumps)
    if hasattr(value, "tobytes") and hasattr(value, "mode"):  # a PIL image
        return f"image {_joined(value.size)} {value.mode} {short_hash(_pixels(value))}"
    return _object(value, name)


def short_hash(*parts: bytes | memoryview | str) -> str:
    """The first digits of a SHA-256 over all parts."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode() if isinstance(part, str) else part)
    return digest.hexdigest()[:_DIGITS]


def raw_bytes(tensor: Tensor) -> memoryview:
    """The bytes of a tensor's values, in memory order of a contiguous tensor."""
    flat = tensor.detach().cpu().contiguous().flatten()
    return flat.view(torch.uint8).numpy().data if flat.numel() else memoryview(b"")


def _array(array: Tensor, batched: bool) -> str:
    if (batched or array.dim() == 4) and len(array) and bool((array == array[:1]).all()):
        array = array[0]
    kind = str(array.dtype).removeprefix("torch.")
    return f"array {_joined(array.shape)} {kind} {short_hash(raw_bytes(array))}"


def _sequence(items: list[Any]) -> Any:
    """Equal texts, images and arrays are one; numbers stay a list."""
    alike = items and isinstance(items[0], str) and all(item == items[0] for item in items)
    return items[0] if alike else items


def _pixels(image: Any) -> bytes:
    """Colours, also of an image that keeps them in a palette."""
    return image.convert("RGBA").tobytes() if image.mode == "P" else image.tobytes()


def _object(value: Any, name: str) -> Any:
    """Settings that a class holds; refuses what shows nothing of its content."""
    if isinstance(value, torch.Generator):
        return f"generator {short_hash(raw_bytes(value.get_state()))}"
    if isinstance(value, nn.Module) or callable(value) or not hasattr(value, "__dict__"):
        raise UsageError(
            f"{name} is of type {type(value).__name__}, whose content cannot be compared with a "
            "knowledge base's: give numbers, texts, images, tensors, or lists and dictionaries of "
            "them"
        )
    kept = {k: described(v, f"{name}.{k}") for k, v in vars(value).items() if k[0] != "_"}
    return {"type": type(value).__name__, **kept}


def _joined(shape: Any) -> str:
    return "x".join(map(str, shape))
