"""Parquet tables that others may have written, read with the columns that the reader relies on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from redi.errors import UsageError

_LARGEST = 1 << 30  # bytes of a table before compression

_KINDS = {
    "text": lambda kind: pa.types.is_string(kind) or pa.types.is_large_string(kind),
    "number": lambda kind: pa.types.is_integer(kind) or pa.types.is_floating(kind),
    "bytes": lambda kind: pa.types.is_binary(kind),
}


def read_columns(path: Path, needed: Mapping[str, str], fix: str) -> dict[str, list[Any]]:
    """All columns of a table, as `read_table` checks it."""
    return read_table(path, needed, fix).to_pydict()


def read_table(path: Path, needed: Mapping[str, str], fix: str) -> pa.Table:
    """A table; the columns in `needed` are there, of their kind and without gaps.

    Kinds are text, number and bytes. A `UsageError` names a file that is something else.
    """
    try:
        with pq.ParquetFile(path) as file:
            metadata, schema = file.metadata, file.schema_arrow
            groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
            if sum(group.total_byte_size for group in groups) > _LARGEST:
                raise ValueError("it is too large")
            for name, kind in needed.items():
                if name not in schema.names:
                    raise ValueError(f"it lacks the column {name!r}")
                if not _KINDS[kind](schema.field(name).type):
                    raise ValueError(f"column {name} holds no {kind}")
            table = file.read(use_threads=False)
            if gaps := [name for name in needed if table[name].null_count]:
                raise ValueError(f"column {gaps[0]} has gaps")
            return table
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UsageError(f"{str(path)!r} is damaged ({reason}): {fix}") from None
