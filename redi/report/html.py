"""A run or sweep as one self-contained HTML page: nothing is loaded from anywhere."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from redi.files import write_durably
from redi.report.claim import claims, sentences
from redi.report.corrected import BEST_PLAIN, corrected_report
from redi.report.curves import curves_figure, measured, varied_setting
from redi.report.labels import HEADLINE
from redi.report.pareto import pareto_figure
from redi.report.results import Results, find_runs, load_results
from redi.report.table import NOTE, Cell, Grid, grid
from redi.report.verdict import verdicts

PAGE = "report.html"


def html_report(root: Path) -> Path:
    """Write `report.html` in `root` over every finished run at or below it.

    Raises UsageError where there is none or one cannot be read.
    """
    runs = []
    for folder in find_runs(root):
        name = root.resolve().name if folder == root else folder.relative_to(root).as_posix()
        runs.append((folder, load_results(folder, name)))
    text = _page(root.resolve().name, runs)
    path = root / PAGE
    write_durably(path, lambda temporary: temporary.write_text(text, "utf-8"))
    return path


def _page(title: str, runs: Sequence[tuple[Path, Results]]) -> str:
    results = [result for _, result in runs]
    told = sentences(claims(runs))
    body = [
        f"<h1>{escape(title)}</h1>",
        f"<p>{len(runs)} finished run{'s' if len(runs) > 1 else ''}. {escape(NOTE)}</p>",
        _section("Full quality at what share of the calls", _list(told)) if told else "",
        _section("Quality against network calls", _plots(_fronts(results))),
        _section("Corrected sampling at equal calls", _corrected(runs)),
        _section("Over the setting that varies", _plots(_curves(results))),
        _section("All points", "".join(_tables(results))),
        _section("In words", _list([line for run in results for line in verdicts(run)])),
        _section("Pictures", _viewer(runs)),
        _section("Provenance", "".join(_provenance(run) for run in results)),
    ]
    shell = files("redi.report").joinpath("page.html").read_text("utf-8")
    return shell.replace("{{title}}", escape(title)).replace("{{body}}", "\n".join(body))


def _section(heading: str, content: str) -> str:
    return f"<section><h2>{escape(heading)}</h2>{content}</section>" if content else ""


def _list(lines: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>" if lines else ""


def _fronts(results: list[Results]) -> dict[str, Figure]:
    points = [point for run in results for point in run.points]
    present = [m for m in HEADLINE if any(m.key in p.values for p in points)]
    return {m.heading: pareto_figure(results, [m], "outside lower center") for m in present}


def _corrected(runs: Sequence[tuple[Path, Results]]) -> str:
    report = corrected_report(runs)
    tables = [
        f"<h3>{escape(name)}</h3>{_table(content)}" for name, content in report.tables.items()
    ]
    note = f"<p>{escape(BEST_PLAIN)}</p>" if tables else ""
    return _plots(report.figures) + note + "".join(tables)


def _curves(results: list[Results]) -> dict[str, Figure]:
    if varied_setting(results) is None:
        return {}
    return {m.heading: curves_figure(results, [m]) for m in measured(results)}


def _plots(figures: dict[str, Figure]) -> str:
    cells = []
    for name, figure in figures.items():
        buffer = io.BytesIO()
        figure.savefig(buffer, dpi=160, format="png")
        cells.append(f'<img alt="{escape(name)}" src="{_inline(buffer.getvalue())}">')
    return f'<div class="plots">{"".join(cells)}</div>' if cells else ""


def _inline(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _tables(results: Sequence[Results]) -> list[str]:
    points = [point for run in results for point in run.points]
    samplers = sorted({point.sampler for point in points})
    return [
        f"<h3>{escape(name)}</h3>{_table(grid([p for p in points if p.sampler == name]))}"
        for name in samplers
    ]


def _table(content: Grid) -> str:
    def side(column: int) -> str:
        return ' class="name"' if column < content.left else ""

    head = "".join(f"<th{side(i)}>{escape(h)}</th>" for i, h in enumerate(content.headings))
    rows = [
        "".join(f"<td{side(i)}>{_cell(cell)}</td>" for i, cell in enumerate(row))
        for row in content.rows
    ]
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="wide" tabindex="0">{table}</div>'


def _cell(cell: Cell) -> str:
    return "".join(f"<b>{escape(t)}</b>" if bold else escape(t) for t, bold in cell)


def _viewer(runs: Sequence[tuple[Path, Results]]) -> str:
    """One sheet at a time, with buttons; without scripts all of them one below the other."""
    figures = []
    for folder, run in runs:
        sheet = folder / "sheet.png"
        if sheet.is_file():
            picture = f'<img alt="sheet of {escape(run.run)}" src="{_inline(sheet.read_bytes())}">'
            figures.append(f"<figure>{picture}<figcaption>{escape(run.run)}</figcaption></figure>")
    if not figures:
        return ""
    buttons = (
        '<p class="buttons"><button type="button" data-by="-1">&#8592; previous</button>'
        ' <span class="where"></span>'
        ' <button type="button" data-by="1">next &#8594;</button></p>'
    )
    return f'<div class="viewer">{buttons if len(figures) > 1 else ""}{"".join(figures)}</div>'


def _provenance(run: Results) -> str:
    facts = _flat(run.provenance)
    rows = "".join(f"<tr><td>{escape(k)}</td><td>{escape(v)}</td></tr>" for k, v in facts.items())
    config = escape(json.dumps(run.config, indent=1))
    return (
        f"<details><summary>{escape(run.run)}</summary>"
        f'<div class="wide" tabindex="0"><table class="facts"><tbody>{rows}</tbody></table></div>'
        f"<pre>{config}</pre></details>"
    )


def _flat(value: dict[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, item in value.items():
        if isinstance(item, dict):
            flat |= _flat(item, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = str(item)
    return flat
