"""The prompt table of a shard: Parquet with the columns index, prompt and noise_id."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redi.errors import UsageError
from redi.reading import open_below

_TYPES = {"index": "int64", "prompt": "string", "noise_id": "int64"}
_LARGEST_ROW = 1 << 16  # bytes of one row before compression, on average


@dataclass(frozen=True)
class Entry:
    """One trajectory's row in the prompt table."""

    index: int
    prompt: str
    noise_id: int


def laid_out_table(entries: Sequence[Entry]) -> bytes:
    """The table as a Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table(
        {
            "index": pa.array([entry.index for entry in entries], pa.int64()),
            "prompt": pa.array([entry.prompt for entry in entries], pa.string()),
            "noise_id": pa.array([entry.noise_id for entry in entries], pa.int64()),
        }
    )
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()


def read_table(root: Path, name: str, rows: int) -> dict[str, list]:
    """The columns of a table of `rows` rows; equal prompts share their memory.

    A `UsageError` names a file that is something else. Its footer is looked at first, so that a
    forged one takes no memory.
    """
    import pyarrow as pa  # 28 MB that a search by keys alone does without
    import pyarrow.parquet as pq

    descriptor = open_below(root, name, "the KB file")
    try:
        with os.fdopen(descriptor, "rb") as file:
            parquet = pq.ParquetFile(file, read_dictionary=["prompt"])
            _require_small(parquet, rows)
            table = parquet.read(use_threads=False)
            prompts = table["prompt"].combine_chunks()
            return {
                "index": _numbers(table["index"]),
                "prompt": _texts(prompts),
                "noise_id": _numbers(table["noise_id"]),
            }
    except (pa.ArrowException, OSError, ValueError, LookupError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UsageError(
            f"the KB file {str(root / name)!r} is damaged ({reason}): run 'redi kb verify'"
        ) from None


def _require_small(parquet: Any, rows: int) -> None:
    found = {field.name: str(field.type) for field in parquet.schema_arrow}
    plain = {
        n: "string" if t.startswith("dictionary<values=string") else t for n, t in found.items()
    }
    if plain != _TYPES:
        raise ValueError(f"its columns are {found}")
    metadata = parquet.metadata
    if metadata.num_rows != rows:
        raise ValueError(f"it has {metadata.num_rows} rows in place of {rows}")
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    if sum(group.total_byte_size for group in groups) > _LARGEST_ROW * (rows + 16):
        raise ValueError("its prompts are too long")


def _numbers(column: Any) -> list[int]:
    if column.null_count:
        raise ValueError("a number is missing")
    return column.to_pylist()


def _texts(column: Any) -> list[str]:
    """Prompts, each different one decoded once."""
    if column.null_count:
        raise ValueError("a prompt is missing")
    if hasattr(column, "dictionary"):
        words = column.dictionary.to_pylist()
        if None in words:
            raise ValueError("a prompt is missing")
        return [words[i] for i in column.indices.to_pylist()]
    return column.to_pylist()
