"""The table of points, its columns given by the metrics, and how a terminal shows it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import groupby
from textwrap import wrap

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from redi.metrics.base import ALWAYS, FILES, Quality
from redi.metrics.catalogue import qualities
from redi.report.blocks import Cell, Grid, Piece
from redi.report.labels import DASH, REFERENCES, calls, rank, significant
from redi.report.points import Point, Value
from redi.report.runs import Run
from redi.report.verdict import verdicts
from redi.text import shown

NOTE = "Bold: the best of all points that take no more calls than a ReDi point."
_HEADING_WIDTH = 14  # characters, in a terminal
#: what rows of one method are told apart by, and how it is written
_SETTINGS = {
    "key_step": "k",
    "value_step": "v",
    "kb_size": "KB",
    "neighbours": "H",
    "estimator": "estimator",
    "resume": "resume",
    "noise": "noise",
    "guidance_scale": "guidance",
    "seed": "seed",
}

Column = tuple[str, Callable[[Point], Cell]]


def print_table(run: Run, console: Console) -> None:
    """Print the table of a run, what real pictures score, and the verdicts."""
    content = grid(run.points)
    table = Table(
        box=box.SIMPLE_HEAD, title=Text(shown(run.name)), collapse_padding=True, pad_edge=False
    )
    for i, heading in enumerate(content.headings):
        lines = "\n".join(wrap(heading, _HEADING_WIDTH))
        side = "left" if i < content.left else "right"
        table.add_column(Text(lines), justify=side, overflow="fold")  # type: ignore[arg-type]
    for row in content.rows:
        table.add_row(*(Text.assemble(*map(_styled, cell)) for cell in row))
    console.print(table)
    for line in notes(run):
        console.print(Text(shown(line)))


def notes(run: Run) -> list[str]:
    """What stands below a run's table: how to read it, the ceiling, the verdicts."""
    cells = [q for q in qualities().values() if q.cell]
    known = {_first_word(q): run.ceiling(q.name) for q in cells}
    shares = [f"{name} {100 * value:.0f}%" for name, value in known.items() if value is not None]
    real = [f"The evaluator's own accuracy on real pictures: {', '.join(shares)}."] * bool(shares)
    return [NOTE, *real, *verdicts(run)]


def grid(points: Sequence[Point]) -> Grid:
    """Rows by sampler, method, then calls; the sampler gets a column where it differs.

    So does the run, where two rows could not be told apart without it.
    """
    points = sorted(points, key=lambda p: (p.sampler, rank(p.method), p.calls))
    varying = _varying(points)
    names: list[Column] = []
    told = {(p.sampler, _label(p, varying), calls(p.calls)) for p in points}
    if len(told) < len(points) and len({p.run for p in points}) > 1:
        names.append(("run", lambda p: [(p.run, False)]))
    if len({p.sampler for p in points}) > 1:
        names.append(("sampler", lambda p: [(p.sampler, False)]))
    names.append(("method", lambda p: [(_label(p, varying), False)]))
    columns = [*names, ("calls", lambda p: [(calls(p.calls), False)]), *_measured(points)]
    rows = [[cell(point) for _, cell in columns] for point in points]
    return Grid([heading for heading, _ in columns], len(names), rows)


def _measured(points: Sequence[Point]) -> list[Column]:
    """A column per quality, those of one cell together."""
    best = _best(points)
    wanted = [
        q
        for q in qualities().values()
        if q.shown == ALWAYS or (q.shown != FILES and any(q.name in p.values for p in points))
    ]
    columns: list[Column] = []
    for cell, grouped in groupby(wanted, key=lambda q: q.cell):
        group = list(grouped)
        if cell:
            heading = f"{cell}: {' / '.join(map(_first_word, group))}"
            columns.append((heading, partial(_together, group, best)))
        else:
            columns += [(q.heading, partial(_alone, q, best)) for q in group]
    return columns


def _alone(quality: Quality, best: set[tuple[int, str]], point: Point) -> Cell:
    return [_piece(point, quality, best)]


def _together(group: Sequence[Quality], best: set[tuple[int, str]], point: Point) -> Cell:
    """Several shares in one cell, as whole percentages."""
    if not any(quality.name in point.values for quality in group):
        return [(DASH, False)]
    pieces = [[("/", False), _piece(point, quality, best, _percent)] for quality in group]
    return sum(pieces, [])[1:]


def _best(points: Sequence[Point]) -> set[tuple[int, str]]:
    """(point, quality) pairs that lead all points with no more calls than some ReDi point."""
    best = set()
    judged = [q for q in qualities().values() if q.ranked]
    for budget in {p.calls for p in points if p.method == "redi"}:
        for quality in judged:
            sign = 1 if quality.higher_is_better else -1
            scores = [
                (sign * p.values[quality.name].mean, id(p))
                for p in points
                if p.calls <= budget and quality.name in p.values and p.method not in REFERENCES
            ]
            lead = max((score for score, _ in scores), default=None)
            best |= {(point, quality.name) for score, point in scores if score == lead}
    return best


def _varying(points: Sequence[Point]) -> dict[str, list[str]]:
    """Per method, the settings in which its points differ: what a row has to be told apart by."""
    return {
        method: [
            name
            for name in _SETTINGS
            if len({p.setting(name) for p in points if p.method == method}) > 1
        ]
        for method in {p.method for p in points}
    }


def _label(point: Point, varying: dict[str, list[str]]) -> str:
    told = [(_SETTINGS[name], point.setting(name)) for name in varying[point.method]]
    return ", ".join([point.title, *(f"{name} = {v}" for name, v in told if v is not None)])


def _piece(
    point: Point,
    quality: Quality,
    best: set[tuple[int, str]],
    write: Callable[[Value], str] | None = None,
) -> Piece:
    value = point.values.get(quality.name)
    if value is None:
        return DASH, False
    if write is not None:
        text = write(value)
    elif quality.margin:
        text = str(value)
    else:
        text = significant(quality.scale * value.mean) + quality.suffix
    return text, (id(point), quality.name) in best


def _percent(value: Value) -> str:
    return f"{100 * value.mean:.0f}"


def _first_word(quality: Quality) -> str:
    return quality.title.split()[0]


def _styled(piece: Piece) -> tuple[str, str]:
    return shown(piece[0]), "bold" if piece[1] else ""
