"""Prompts from a user's file: a line each, or a column of a table."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from redi.errors import UsageError, unknown

TABLES = {".csv": ",", ".tsv": "\t", ".parquet": None}
_BLANK = " \t\r"  # what may stand around a prompt; other white space is part of it


def read_prompts(path: Path, told: str, column: str | None = None) -> list[str]:
    """All prompts of a file, in order; blank ones are left out.

    A text file is UTF-8, with or without byte order mark, and only a line feed ends a line. Of
    `.csv`, `.tsv` (with a heading) and `.parquet` one column is read: the only one, or `column`.

    Args:
        path: the file.
        told: how messages name it: the key with its value.
        column: of a table; None otherwise.

    Raises:
        UsageError: no file, no UTF-8, no such column, or nothing in it.
    """
    if not path.is_file():
        raise UsageError(f"{told} is not a file: name a text file, one prompt per line")
    suffix = path.suffix.lower()
    if suffix not in TABLES:
        if column is not None:
            raise UsageError(
                f"data.column={column!r} does nothing with {told}: use a file that ends in "
                f"{', '.join(TABLES)}, or leave data.column unset"
            )
        found = _text(path, told).split("\n")
    elif suffix == ".parquet":
        found = _parquet(path, told, column)
    else:
        found = _separated(path, told, column, str(TABLES[suffix]))
    prompts = [stripped for line in found if (stripped := line.strip(_BLANK + "\n"))]
    if not prompts:
        raise UsageError(f"{told} holds no prompt: write one on each line")
    return prompts


def _text(path: Path, told: str) -> str:
    content = path.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{told} is not UTF-8 (at byte {error.start}): save it as UTF-8 text"
        ) from None
    if "\0" in text:
        raise UsageError(f"{told} holds zero bytes, as UTF-16 does: save it as UTF-8 text")
    return text


def _separated(path: Path, told: str, column: str | None, separator: str) -> list[str]:
    rows = csv.reader(io.StringIO(_text(path, told), newline=""), delimiter=separator, strict=True)
    try:
        heading, *others = list(rows) or [[]]
    except csv.Error as error:
        raise UsageError(f"{told} is not a table (line {rows.line_num}: {error})") from None
    place = heading.index(_column(heading, told, column))
    others = [row for row in others if row]
    for number, row in enumerate(others, 2):
        if len(row) != len(heading):
            raise UsageError(
                f"{told} has {len(row)} cells in row {number} and {len(heading)} in its heading: "
                "put texts that hold the separator in quotes"
            )
    return [row[place] for row in others]


def _parquet(path: Path, told: str, column: str | None) -> list[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            heading = file.schema_arrow.names
            chosen = _column(heading, told, column)
            values = file.read([chosen])[chosen]
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"{told} is not a Parquet file that can be read ({reason})") from None
    if not (pa.types.is_string(values.type) or pa.types.is_large_string(values.type)):
        raise UsageError(f"data.column={chosen!r} of {told} is {values.type}: choose one of text")
    return [value for value in values.to_pylist() if value is not None]


def _column(heading: list[str], told: str, column: str | None) -> str:
    if column is None and len(heading) == 1:
        return heading[0]
    if column is None:
        raise UsageError(
            f"{told} is a table with the columns {', '.join(heading) or '(none)'}: "
            "choose one with data.column"
        )
    if column not in heading:
        raise unknown(f"data.column={column!r} of {told}", column, heading)
    return column
