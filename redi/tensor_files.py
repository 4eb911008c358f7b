"""The safetensors format: how a file is laid out, and a header that is checked against its file."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from redi.reading import parse_json, whole

#: bytes of one number, by the format's name of its type
ITEM_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "I16": 2, "F16": 2, "BF16": 2, "I32": 4, "F32": 4, "I64": 8,
    "F64": 8,
}  # fmt: skip
_LARGEST_HEADER = 16 << 20


@dataclass(frozen=True)
class Extent:
    """Where an array lies in its file."""

    dtype: str  # a name of ITEM_BYTES
    shape: tuple[int, ...]
    start: int  # bytes from the beginning of the file
    stop: int


def header_of(
    arrays: Sequence[tuple[str, str, Sequence[int]]], metadata: Mapping[str, str] | None = None
) -> bytes:
    """The bytes before the arrays (name, dtype, shape), which follow in this order."""
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": dict(metadata)}
    end = 0
    for name, dtype, shape in arrays:
        start, end = end, end + prod(shape) * ITEM_BYTES[dtype]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def read_header(descriptor: int) -> tuple[dict[str, Extent], dict[str, str]]:
    """The arrays and the metadata of an open file.

    `ValueError` says what is wrong: the arrays must lie one after the other, each as long as its
    shape and dtype say, and fill the file.
    """
    size = os.fstat(descriptor).st_size
    length = int.from_bytes(os.pread(descriptor, 8, 0), "little")
    if not 2 <= length <= min(size - 8, _LARGEST_HEADER):
        raise ValueError(f"a header of {length} bytes in a file of {size}")
    header = parse_json(os.pread(descriptor, length, 8))
    if not isinstance(header, dict):
        raise ValueError("its header is no JSON object")
    metadata = header.pop("__metadata__", None) or {}
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise ValueError("its metadata are no texts")
    found = {name: _extent(name, item, 8 + length) for name, item in header.items()}
    end = 8 + length
    for extent in sorted(found.values(), key=lambda e: (e.start, e.stop)):
        if extent.start != end:
            raise ValueError(f"an array begins at byte {extent.start} and not at {end}")
        end = extent.stop
    if end != size:
        raise ValueError(f"it has {size} bytes and its arrays end at {end}")
    return found, metadata


def _extent(name: str, item: Any, first: int) -> Extent:
    try:
        dtype, shape, (start, stop) = item["dtype"], item["shape"], item["data_offsets"]
        shape = tuple(whole(length) for length in shape)
        start, stop = first + whole(start, most=1 << 62), first + whole(stop, most=1 << 62)
        bytes_each = ITEM_BYTES[dtype]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"array {name!r}: {type(error).__name__} {error}") from None
    if stop - start != prod(shape) * bytes_each:
        raise ValueError(f"array {name!r} has {stop - start} bytes for {dtype} {list(shape)}")
    return Extent(dtype, shape, start, stop)
