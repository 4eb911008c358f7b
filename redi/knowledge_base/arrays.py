"""Safetensors files row by row: positioned reads, so that a truncated file is an error.

A read past the end of a memory map kills the process, and every touched page counts as its own
memory; a positioned read from the same page cache does neither.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from redi.errors import UsageError
from redi.knowledge_base.manifest import Column
from redi.knowledge_base.precision import SCALE, scale_shape
from redi.reading import open_below
from redi.tensor_files import header_of, read_header

#: the format's names of the types that columns are stored in
CODES = {"float32": "F32", "float16": "F16", "int8": "I8"}
_OPEN = 128  # files kept open: far below the usual limit of 1024


@dataclass(frozen=True)
class Placed:
    """An array in an open file."""

    path: Path
    descriptor: int
    offset: int
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
    ordered = sorted(arrays.items(), key=lambda item: (-item[1].itemsize, item[0]))
    header = header_of([(name, CODES[a.dtype.name], a.shape) for name, a in ordered])
    pieces = [
        memoryview(np.ascontiguousarray(a).reshape(-1).view(np.uint8).data) for _, a in ordered
    ]
    return [memoryview(header), *pieces]


class ArrayFiles:
    """Opens the safetensors files of a KB and keeps the most recently used ones open."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._open: OrderedDict[str, tuple[int, dict[str, Placed]]] = OrderedDict()

    def open(self, name: str, rows: int, columns: list[Column]) -> dict[str, Placed]:
        """The arrays of a file by name; they must be those of `rows` rows of these columns."""
        if name in self._open:
            self._open.move_to_end(name)
            return self._open[name][1]
        descriptor = open_below(self.root, name, "the KB file")
        try:
            placed = _placed(self.root / name, descriptor, rows, columns)
        except BaseException:
            os.close(descriptor)
            raise
        self._open[name] = (descriptor, placed)
        if len(self._open) > _OPEN:
            os.close(self._open.popitem(last=False)[1][0])
        return placed

    def close(self) -> None:
        """Close every file."""
        while self._open:
            os.close(self._open.popitem()[1][0])

    def __del__(self) -> None:
        self.close()


def _placed(path: Path, descriptor: int, rows: int, columns: list[Column]) -> dict[str, Placed]:
    """Where the columns of a group are, after comparing the file's header with the manifest."""
    expected: dict[str, tuple[str, tuple[int, ...]]] = {}
    for column in columns:
        expected[column.name] = (CODES[column.dtype], (rows, *column.shape))
        if column.dtype == "int8":
            expected[column.name + SCALE] = ("F32", (rows, *scale_shape(column.shape)))
    try:
        found, _ = read_header(descriptor)
        if set(found) != set(expected):
            raise ValueError(f"it holds {sorted(found)} in place of {sorted(expected)}")
        for name, (dtype, shape) in expected.items():
            extent = found[name]
            if (extent.dtype, extent.shape) != (dtype, shape):
                raise ValueError(
                    f"{name} is {extent.dtype} {list(extent.shape)} in place of "
                    f"{dtype} {list(shape)}"
                )
    except ValueError as error:
        raise UsageError(
            f"the KB file {str(path)!r} is damaged ({error}): run 'redi kb verify'"
        ) from None
    return {
        name: Placed(path, descriptor, extent.start, (extent.stop - extent.start) // rows)
        for name, extent in found.items()
    }
