"""The table of a run's points, for a terminal and as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from textwrap import wrap
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from redi.report.labels import (
    CLIP_SCORE,
    DASH,
    EXTRA,
    FD_SCENE,
    FIDELITY,
    LATENT_ERROR,
    METHODS,
    PSNR,
    REFERENCES,
    SSIM,
    Metric,
    calls,
    significant,
)
from redi.report.results import Point, Results, Value
from redi.report.verdict import verdicts

NOTE = "Bold: the best of all points that take no more calls than a ReDi point."
_FIDELITY_HEADING = "fidelity %: " + " / ".join(m.title.split()[0] for m in FIDELITY)
_HEADING_WIDTH = 14  # characters, in a terminal
_QUALITIES = (PSNR, SSIM, LATENT_ERROR, CLIP_SCORE, FD_SCENE, *FIDELITY, *EXTRA)
_SETTINGS = {
    "key_step": "k",
    "value_step": "v",
    "kb_size": "KB",
    "neighbours": "H",
    "estimator": "estimator",
    "resume": "resume",
    "noise_policy": "noise",
    "guidance_scale": "guidance",
    "seed": "seed",
}

_TIMING = ("seconds_", "speedup")

Piece = tuple[str, bool]  # text, and whether it is bold
Cell = list[Piece]


@dataclass(frozen=True)
class Grid:
    """Headings and rows of cells, before any markup; the first `left` columns are names."""

    headings: list[str]
    left: int
    rows: list[list[Cell]]


def print_table(results: Results, console: Console) -> None:
    """Print the table of a run, what real pictures score, and the verdicts."""
    content = grid(results.points)
    table = Table(
        box=box.SIMPLE_HEAD, title=Text(results.run), collapse_padding=True, pad_edge=False
    )
    for i, heading in enumerate(content.headings):
        lines = "\n".join(wrap(heading, _HEADING_WIDTH))
        table.add_column(
            Text(lines), justify="left" if i < content.left else "right", overflow="fold"
        )
    for row in content.rows:
        table.add_row(*(Text.assemble(*map(_styled, cell)) for cell in row))
    console.print(table)
    for line in [NOTE, *_ceiling(results), *verdicts(results)]:
        console.print(Text(line))


def markdown_table(results: Results) -> str:
    """The table, what real pictures score, and the verdicts of a run, as Markdown."""
    lines = [NOTE, *_ceiling(results), *verdicts(results)]
    return "\n\n".join([markdown_points(results.points), *lines]) + "\n"


def markdown_points(points: Sequence[Point]) -> str:
    """A Markdown table of points from one or several runs, without a final newline."""
    return markdown_grid(grid(points))


def markdown_grid(content: Grid) -> str:
    """Any grid as a Markdown table, without a final newline."""
    rule = ["---" if i < content.left else "---:" for i in range(len(content.headings))]
    rows = [["".join(map(_marked, cell)) for cell in row] for row in content.rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in [content.headings, rule, *rows])


def grid(points: Sequence[Point]) -> Grid:
    """Rows by method, then calls; the sampler gets a column where it differs.

    So does the run, where two rows could not be told apart without it.
    """
    ranks = list(METHODS)
    points = sorted(points, key=lambda p: (p.sampler, ranks.index(p.method), p.nfe))
    best = _best(points)

    def quality(metric: Metric, margin: bool = False) -> Callable[[Point], Cell]:
        return lambda p: [_piece(p, metric, best, str if margin else _mean)]

    def fidelity(p: Point) -> Cell:
        if not any(metric.key in p.values for metric in FIDELITY):
            return [(DASH, False)]
        pieces = [[("/", False), _piece(p, metric, best, _percent)] for metric in FIDELITY]
        return sum(pieces, [])[1:]

    names: list[tuple[str, Callable[[Point], Cell]]] = []
    varying = _varying(points)
    told = {(p.sampler, _label(p, varying), calls(p.nfe)) for p in points}
    if len(told) < len(points) and len({p.run for p in points}) > 1:
        names.append(("run", lambda p: [(p.run, False)]))
    if len({p.sampler for p in points}) > 1:
        names.append(("sampler", lambda p: [(p.sampler, False)]))
    names.append(("method", lambda p: [(_label(p, varying), False)]))
    numbers: list[tuple[str, Callable[[Point], Cell]]] = [
        ("calls", lambda p: [(calls(p.nfe), False)]),
        ("speedup", lambda p: [_number(p.mean("speedup"), "×")]),
        (PSNR.heading, quality(PSNR, margin=True)),
        (SSIM.heading, quality(SSIM)),
        (LATENT_ERROR.heading, quality(LATENT_ERROR)),
        (CLIP_SCORE.heading, quality(CLIP_SCORE, margin=True)),
        (FD_SCENE.heading, quality(FD_SCENE, margin=True)),
        (_FIDELITY_HEADING, fidelity),
        *((m.heading, quality(m, margin=True)) for m in EXTRA if _has(points, m)),
        ("ms per image", lambda p: [_number(p.mean("seconds_per_image"), "", 1000)]),
    ]
    columns = names + numbers
    rows = [[cell(point) for _, cell in columns] for point in points]
    return Grid([heading for heading, _ in columns], len(names), rows)


def distinct(points: Sequence[Point]) -> list[Point]:
    """Leave out what an earlier run already holds, such as the baselines that a sweep shares."""
    kept: dict[tuple[Any, ...], Point] = {}
    for point in points:
        setting = tuple(
            getattr(point, f.name) for f in fields(point) if f.name not in ("run", "values")
        )
        measured = tuple((k, v) for k, v in point.values.items() if not k.startswith(_TIMING))
        kept.setdefault((setting, measured), point)
    return list(kept.values())


def _has(points: Sequence[Point], metric: Metric) -> bool:
    return any(metric.key in point.values for point in points)


def _best(points: Sequence[Point]) -> set[tuple[int, str]]:
    """(point, metric) pairs that lead all points with no more calls than some ReDi point."""
    best = set()
    for budget in {p.nfe for p in points if p.method == "redi"}:
        for metric in _QUALITIES:
            sign = 1 if metric.higher_is_better else -1
            scores = [
                (sign * p.values[metric.key].mean, id(p))
                for p in points
                if p.nfe <= budget and metric.key in p.values and p.method not in REFERENCES
            ]
            lead = max((score for score, _ in scores), default=None)
            best |= {(point, metric.key) for score, point in scores if score == lead}
    return best


def _varying(points: Sequence[Point]) -> dict[str, list[str]]:
    """Per method, the settings in which its points differ: what a row has to be told apart by."""
    return {
        method: [
            name
            for name in _SETTINGS
            if len({getattr(p, name) for p in points if p.method == method}) > 1
        ]
        for method in METHODS
    }


def _label(point: Point, varying: dict[str, list[str]]) -> str:
    told = [(_SETTINGS[name], getattr(point, name)) for name in varying[point.method]]
    return ", ".join([point.label, *(f"{name} = {v}" for name, v in told if v is not None)])


def _piece(
    point: Point, metric: Metric, best: set[tuple[int, str]], write: Callable[[Value], str]
) -> Piece:
    value = point.values.get(metric.key)
    if value is None:
        return DASH, False
    return write(value), (id(point), metric.key) in best


def _mean(value: Value) -> str:
    return significant(value.mean)


def _percent(value: Value) -> str:
    return f"{100 * value.mean:.0f}"


def _number(value: float | None, unit: str, scale: float = 1) -> Piece:
    return (DASH if value is None else significant(scale * value) + unit), False


def _ceiling(results: Results) -> list[str]:
    known = {m.title.split()[0]: results.ceiling(m.key) for m in FIDELITY}
    shares = [f"{name} {100 * value:.0f}%" for name, value in known.items() if value is not None]
    return [f"The evaluator's own accuracy on real pictures: {', '.join(shares)}."] * bool(shares)


def _styled(piece: Piece) -> tuple[str, str]:
    return piece[0], "bold" if piece[1] else ""


def _marked(piece: Piece) -> str:
    text = piece[0].replace("|", "\\|")
    return f"**{text}**" if piece[1] else text
