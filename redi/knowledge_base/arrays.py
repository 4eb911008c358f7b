"""Safetensors files row by row: positioned reads, so that a truncated file is an error.

A read past the end of a memory map kills the process, and every touched page counts as its own
memory; a positioned read from the same page cache does neither.
"""

from __future__ import annotations

import json
import os
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from redi.errors import UsageError

_TYPES = {"F32": "float32", "F16": "float16", "I8": "int8"}
_OPEN = 128  # files kept open: far below the usual limit of 1024


@dataclass(frozen=True)
class Placed:
    """An array in an open file."""

    path: Path
    descriptor: int
    offset: int
    dtype: np.dtype
    shape: tuple[int, ...]

    row_bytes: int

    def read_into(self, out: memoryview, first: int) -> None:
        """Fill `out`, the bytes of whole rows, with the rows from `first`."""
        start, size = self.offset + first * self.row_bytes, len(out)
        done = os.preadv(self.descriptor, [out], start)
        while done < size:
            more = os.preadv(self.descriptor, [out[done:]], start + done)
            if more == 0:
                raise UsageError(
                    f"the KB file {str(self.path)!r} is truncated: run 'redi kb verify' and "
                    "build its shard again"
                )
            done += more


def laid_out(arrays: Mapping[str, np.ndarray]) -> list[memoryview]:
    """A safetensors file as pieces to write one after the other, without copying the arrays."""
    codes = {name: code for code, name in _TYPES.items()}
    header, pieces, end = {}, [], 0
    for name, array in sorted(arrays.items(), key=lambda item: (-item[1].itemsize, item[0])):
        piece = memoryview(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        header[name] = {
            "dtype": codes[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": [end, end + len(piece)],
        }
        pieces.append(piece)
        end += len(piece)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return [memoryview(len(text).to_bytes(8, "little") + text), *pieces]


class ArrayFiles:
    """Opens safetensors files and keeps the most recently used ones open."""

    def __init__(self) -> None:
        self._open: OrderedDict[Path, tuple[int, dict[str, Placed]]] = OrderedDict()

    def __getitem__(self, path: Path) -> dict[str, Placed]:
        """The arrays of a file by name."""
        if path in self._open:
            self._open.move_to_end(path)
            return self._open[path][1]
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            raise UsageError(
                f"the KB file {str(path)!r} is missing: run 'redi kb verify'"
            ) from None
        self._open[path] = (descriptor, _placed(path, descriptor))
        if len(self._open) > _OPEN:
            os.close(self._open.popitem(last=False)[1][0])
        return self._open[path][1]

    def close(self) -> None:
        """Close every file."""
        while self._open:
            os.close(self._open.popitem()[1][0])

    def __del__(self) -> None:
        self.close()


def _placed(path: Path, descriptor: int) -> dict[str, Placed]:
    """Read a safetensors header: 8 bytes of length, JSON, then the arrays."""
    try:
        length = int.from_bytes(os.pread(descriptor, 8, 0), "little")
        if not 0 < length <= os.fstat(descriptor).st_size:
            raise ValueError(f"a header of {length} bytes")
        header = json.loads(os.pread(descriptor, length, 8))
        header.pop("__metadata__", None)
        return {name: _place(path, descriptor, 8 + length, item) for name, item in header.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        os.close(descriptor)
        raise UsageError(
            f"the KB file {str(path)!r} is damaged ({error}): run 'redi kb verify'"
        ) from None


def _place(path: Path, descriptor: int, start: int, item: dict[str, Any]) -> Placed:
    dtype, shape = np.dtype(_TYPES[item["dtype"]]), tuple(item["shape"])
    row_bytes = int(np.prod(shape[1:], dtype=np.int64)) * dtype.itemsize
    return Placed(path, descriptor, start + item["data_offsets"][0], dtype, shape, row_bytes)
