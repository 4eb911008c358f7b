"""Example pictures of a run: kept as they were made, and drawn as its sample sheet."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from redi.errors import UsageError
from redi.parquet import read_columns
from redi.report.compare import same_calls
from redi.report.labels import is_rival
from redi.report.points import Point
from redi.report.runs import Run
from redi.report.sheets import SheetRow, sheet

EXAMPLES = "examples.parquet"
_SHOWN = ("content", "full", "switch", "redi", "plain", "neighbour")
_FEW = 4  # calls, about which a budget is shown
_KINDS = {"query": "number", "noise": "number", "prompt": "text", "entry": "text", "png": "bytes"}
_COLUMNS = tuple(_KINDS)


@dataclass(frozen=True)
class Example:
    """One query with what every entry made of it, uint8 (H, W, 3)."""

    query: int
    noise: int
    prompt: str
    pictures: Mapping[str, np.ndarray]


def write_examples(examples: Sequence[Example], path: Path) -> None:
    """Keep examples, their pictures as PNG."""
    rows = [
        (e.query, e.noise, e.prompt, entry, _packed(picture))
        for e in examples
        for entry, picture in e.pictures.items()
    ]
    columns = zip(_COLUMNS, zip(*rows, strict=True), strict=True)
    pq.write_table(pa.table({name: list(values) for name, values in columns}), path)


def read_examples(folder: Path) -> list[Example]:
    """The examples of a run directory, none where it keeps none."""
    path = folder / EXAMPLES
    if not path.is_file():
        return []
    found: dict[tuple[int, int, str], dict[str, np.ndarray]] = {}
    columns = read_columns(path, _KINDS, "delete it")
    try:
        for query, noise, prompt, entry, png in zip(*(columns[n] for n in _COLUMNS), strict=True):
            picture = np.array(Image.open(io.BytesIO(png)).convert("RGB"))
            found.setdefault((query, noise, prompt), {})[entry] = picture
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UsageError(f"{str(path)!r} is damaged ({reason}): delete it") from error
    return [Example(*key, pictures) for key, pictures in sorted(found.items(), key=_order)]


def run_sheet(run: Run, examples: Sequence[Example], path: Path) -> None:
    """Write the sample sheet of a run: methods across, PSNR or the neighbour's prompt below."""
    points = [p for p in shown_points(run) if p.entry in examples[0].pictures]
    rows = []
    for example in examples:
        notes = {p.entry: _note(run, p, example) for p in points}
        rows.append(SheetRow(example.prompt, example.pictures, notes))
    known = {p.entry for p in _known(run)}
    labels = {p.entry: (p.entry not in known and p.label) or p.title for p in points}
    sheet(rows, path, [p.entry for p in points], labels)


def shown_points(run: Run) -> list[Point]:
    """What a sheet shows: the known methods, then each further one with about four calls.

    Beside those stands the plain sampler with as many calls and the least latent error.
    """
    found, rivals = _known(run), [p for p in run.points if is_rival(p.method)]
    for method in dict.fromkeys(p.method for p in rivals if p.method != "redi"):
        its = [p for p in rivals if p.method == method]
        few = min(its, key=lambda p: abs(p.calls - _FEW))
        plain = [p for p in run.points if p.method == "plain" and p.calls == few.calls]
        plain = [p for p in plain if p not in found and "latent_error" in p.values]
        found += sorted(plain, key=lambda p: p.values["latent_error"].mean)[:1]
        found.append(few)
    return found


def _known(run: Run) -> list[Point]:
    redi, found = run.first("redi"), []
    for method in _SHOWN:
        point = run.first(method)
        if method == "plain" and redi is not None:
            point = same_calls(redi, run)
        found += [point] if point is not None else []
    return found


def _note(run: Run, point: Point, example: Example) -> str:
    def cell(column: str) -> object:
        if not run.pictures:
            return None
        return run.pictures.value(point.entry, example.query, example.noise, column)

    if point.method == "neighbour":
        return str(cell("neighbour_prompt") or "")
    psnr = cell("psnr")
    return f"{psnr:.1f} dB" if isinstance(psnr, float) else ""


def _packed(picture: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture)).save(file, "PNG")
    return file.getvalue()


def _order(item: tuple[tuple[int, int, str], dict[str, np.ndarray]]) -> tuple[int, int]:
    return item[0][0], item[0][1]
