"""How precisely a column is stored: full, half, or 8 bits with a scale per channel."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from redi.errors import UsageError
from redi.lazy import Tensor, torch

#: names in the configuration, and the type that the manifest records
PRECISIONS = {"full": "float32", "half": "float16", "int8": "int8"}
SCALE = ".scale"  # a second array beside an 8-bit one
_BLOCK = 1 << 20  # bytes of full precision rounded at a time: what a cache holds
LARGEST = float(np.finfo(np.float32).max)
_LIMIT = {"float32": LARGEST, "float16": 65504.0, "int8": LARGEST}


class NotFinite(ValueError):
    """Row `row` of an array holds NaN or an infinity."""

    def __init__(self, row: int) -> None:
        super().__init__(f"row {row} is not finite")
        self.row = row


def precision(field: str, name: str, known: tuple[str, ...]) -> str:
    """The stored type that the configuration's `field` names."""
    if name not in known:
        raise UsageError(f"{field}={name!r} is unknown; use one of {', '.join(known)}")
    return PRECISIONS[name]


def scale_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of the scales of one 8-bit row: one number per channel, (C, H, W) -> (C,)."""
    return shape[:-2]


def row_bytes(shape: tuple[int, ...], dtype: str) -> int:
    """Bytes of one stored row."""
    values = math.prod(shape) * np.dtype(dtype).itemsize
    return values + (4 * math.prod(scale_shape(shape)) if dtype == "int8" else 0)


def encode(array: np.ndarray, dtype: str, what: str) -> tuple[dict[str, np.ndarray], float]:
    """Arrays to store for rows (N, *shape) by suffix, and the relative RMS error of doing so.

    8-bit values are `scale * integer` with `scale = max |x| / 127` over a channel of one row: no
    value is off by more than half a scale. The error is measured on up to 16 rows.
    """
    full = np.ascontiguousarray(array, np.float32)
    if dtype == "float32":
        _require_range(torch.from_numpy(full), full, dtype, what)
        return {"": full}, 0.0
    stored = _half(full, what) if dtype == "float16" else _int8(full, what)
    some = slice(None, None, -(-len(full) // 16))
    read = decode({suffix: part[some] for suffix, part in stored.items()}, dtype)
    gap = np.linalg.norm(read - full[some])
    return stored, float(gap / max(np.linalg.norm(full[some]), np.finfo(np.float32).tiny))


def _half(full: np.ndarray, what: str) -> dict[str, np.ndarray]:
    """Checked and rounded block by block, so that memory is read once."""
    values, stored = torch.from_numpy(full), torch.empty(full.shape, dtype=torch.float16)
    rows = max(1, _BLOCK // max(1, full[:1].nbytes))
    for part, out in zip(values.split(rows), stored.split(rows), strict=True):
        _require_range(part, full, "float16", what)
        out.copy_(part)
    return {"": stored.numpy()}


def _int8(full: np.ndarray, what: str) -> dict[str, np.ndarray]:
    values = torch.from_numpy(full)
    _require_range(values, full, "int8", what)
    channels = values.reshape(len(full), *scale_shape(full.shape[1:]), -1)
    scale = channels.abs().amax(-1) / 127
    safe = torch.where(scale > 0, scale, 1)[..., None]
    integers = (channels / safe).round_().to(torch.int8)
    return {"": integers.reshape(full.shape).numpy(), SCALE: scale.numpy()}


def _require_range(values: Tensor, full: np.ndarray, dtype: str, what: str) -> None:
    """Refuse `values`, a part of all rows `full`, that are not finite or too large."""
    if within(values, _LIMIT[dtype]):
        return
    row = first_not_finite(torch.from_numpy(full))
    if row is not None:
        raise NotFinite(row)
    raise UsageError(
        f"{what} holds values that {dtype} cannot: store it with full precision "
        "(kb.key_precision=full, kb.value_precision=full)"
    )


def within(values: Tensor, limit: float = LARGEST) -> bool:
    """Whether all values are finite and at most `limit` in size; one pass over memory."""
    if values.numel() == 0:
        return True
    if limit == LARGEST and values.dtype == torch.float32:
        flat = values.reshape(-1)
        if math.isfinite(float(flat.dot(flat))):  # thrice as quick as looking for the largest
            return True
    low, high = torch.aminmax(values)
    return max(-float(low), float(high)) <= limit and bool(low <= high)  # NaN: no order


def first_not_finite(rows: Tensor) -> int | None:
    """The first of rows (N, ...) that holds NaN or an infinity."""
    bad = ~rows.reshape(len(rows), -1).isfinite().all(1)
    return int(bad.to(torch.uint8).argmax()) if bool(bad.any()) else None


def decode(stored: Mapping[str, np.ndarray], dtype: str) -> np.ndarray:
    """Rows in full precision from what `encode` stored."""
    values = stored[""]
    if dtype == "float32":
        return values
    full = torch.from_numpy(np.ascontiguousarray(values)).float().numpy()
    if dtype == "float16":
        return full
    scale = stored[SCALE]
    return (full.reshape(*scale.shape, -1) * scale[..., None]).reshape(values.shape)
