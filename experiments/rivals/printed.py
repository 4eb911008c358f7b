"""Reads the tables that three runs printed: their files are lost (see printed/README.md)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent / "printed"
#: where the cells of a row stand
_SAMPLER, _METHOD, _CALLS, _ERROR = slice(1, 16), slice(17, 32), slice(33, 39), slice(120, 143)


def rows(path: Path) -> Iterator[dict[str, Any]]:
    """Method, calls and error to the converged run, as mean, low and high, of each table row."""
    lines = path.read_text("utf-8").splitlines()
    start = max(i for i, line in enumerate(lines) if line.strip().startswith("sampler "))
    found: list[list[str]] = []
    for line in lines[start + 2 :]:
        if not line.strip():
            break
        cells = [line[part].strip() for part in (_SAMPLER, _METHOD, _CALLS, _ERROR)]
        if cells[2]:
            found.append(cells)
        else:  # cells that were too narrow go on
            found[-1] = [old + new for old, new in zip(found[-1], cells, strict=True)]
    for sampler, method, calls, error in found:
        mean, _, margin = error.partition("±")
        yield {
            "sampler": sampler,
            "method": method,
            "calls": int(calls),
            "error": float(mean),
            "margin": float(margin),
        }
