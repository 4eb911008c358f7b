"""The finished runs of a sweep in four files, to commit or to hand on.

`runs.json` has every run's results, `per_image.parquet` and `draws.parquet` the rows of all runs
with the name of theirs in the column `run`, and `points.parquet` a row per point. Reports, claims
and plots read the folder as they read the sweep's own.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from redi.errors import UsageError
from redi.files import make_folder, write_durably, write_json
from redi.report.pictures import DRAWS, PER_IMAGE, RUN
from redi.report.points import POINTS, Point, write_points
from redi.report.runs import COLLECTED, COLLECTION, SHEET, Found, Run, find_results, read_run

_MACHINES = ("config", "provenance")  # what may name folders of the machine


def collect(root: Path, out: Path) -> list[Run]:
    """Write every finished run at or below `root` to `out`, beside those that are there already.

    Settings that are absolute paths keep their last part alone. The sheet of the run with the most
    pictures comes along. `runs.json` is written last: until then `out` is what it was.

    Returns:
        All runs of `out`.

    Raises:
        UsageError: no finished run, or another one of the same name in `out`.
    """
    mine, held = find_results(root), find_results(out) if (out / COLLECTED).is_file() else []
    told = {found.name: found for found in held}
    added = []
    for found in mine:
        content = {k: _portable(v) if k in _MACHINES else v for k, v in found.content.items()}
        name = out.resolve().name if found.name == "." else found.name
        if name not in told:
            added.append(Found(name, found.folder, content, found.pictures, found.sheet))
        elif told[name].content != content:
            raise UsageError(
                f"{str(out)!r} holds another run named {name!r}: collect into an empty folder"
            )
    every = [*held, *added]
    runs = [read_run(found, out.resolve().name) for found in every]
    make_folder(out)
    for file in (PER_IMAGE, DRAWS):
        tables = [(found.name, found.pictures.table(file)) for found in every]
        rows = _joined([(name, table) for name, table in tables if table is not None])
        if rows is not None:
            _write(rows, out / file)
    write_durably(out / POINTS, lambda temporary: write_points(_points(runs), temporary))
    shown = _shown(every, runs)
    if shown is not None and shown.sheet is not None and shown.sheet != out / SHEET:
        picture = shown.sheet
        write_durably(out / SHEET, lambda temporary: shutil.copyfile(picture, temporary))
    kept = [{"name": found.name, **found.content} for found in every]
    sheet = None if shown is None else shown.name
    write_json(out / COLLECTED, {"schema": COLLECTION, "sheet": sheet, "runs": kept})
    return runs


def _points(runs: Sequence[Run]) -> list[Point]:
    return [point for run in runs for point in run.points]


def _shown(every: Sequence[Found], runs: Sequence[Run]) -> Found | None:
    """The run whose sheet is kept: one that is held, or the largest."""
    counts = [max(point.count for point in run.points) for run in runs]
    sheets = [(n, found) for n, found in zip(counts, every, strict=True) if found.sheet is not None]
    return max(sheets, key=lambda pair: pair[0])[1] if sheets else None


def _joined(tables: Sequence[tuple[str, pa.Table]]) -> pa.Table | None:
    named = [
        table.add_column(0, RUN, pa.array([name] * len(table), pa.string()))
        for name, table in tables
    ]
    return pa.concat_tables(named, promote_options="permissive") if named else None


def _write(rows: pa.Table, path: Path) -> None:
    write_durably(path, lambda temporary: pq.write_table(rows, temporary, compression="zstd"))


def _portable(value: Any) -> Any:
    """A setting without folders of this machine."""
    if isinstance(value, dict):
        return {name: _portable(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_portable(item) for item in value]
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value
