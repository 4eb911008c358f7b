"""A run or sweep as one self-contained HTML page: nothing is loaded from anywhere."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from redi.files import write_durably
from redi.report.claim import claims, claims_grid
from redi.report.corrected import BEST_PLAIN, corrected_report
from redi.report.curves import curves_figure, measured, variation
from redi.report.figures import method_keys, png
from redi.report.html_provenance import origin, provenance
from redi.report.labels import EXPLAINED
from redi.report.pareto import headline, pareto_figure, pareto_keys, shown_samplers
from redi.report.results import Results, find_runs, load_results
from redi.report.styles import has_styles, styles_figure
from redi.report.table import NOTE, Cell, Grid, distinct, grid
from redi.report.verdict import verdicts

PAGE = "report.html"
_DPI = 150
_FEW = 3  # sentences that need no folding
_CLAIM = (
    "The smallest share of full sampling's network calls at which a method is not shown to be "
    "worse than full sampling, with its interval over prompts; 1.00 means that no smaller share "
    "was enough."
)


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
    told = claims(runs)
    body = [
        f"<h1>{escape(title)}</h1>",
        f"<p>{escape(origin(results))}</p>",
        _glossary(),
        _section("Full quality at what share of the calls?", _table(claims_grid(told)), _CLAIM)
        if told
        else "",
        _section("Quality against network calls", _fronts(results)),
        _section("Corrected sampling at equal calls", _corrected(runs)),
        _section("Over the setting that varies", _curves(results)),
        _section("Content kept, style taken", _styles(results)),
        _section("All points", "".join(_tables(results)), NOTE),
        _section("In words", _verdicts(results)),
        _section("Pictures", _viewer(runs)),
        _section("Provenance", provenance(results)),
    ]
    shell = files("redi.report").joinpath("page.html").read_text("utf-8")
    return shell.replace("{{title}}", escape(title)).replace("{{body}}", "\n".join(body))


def _section(heading: str, content: str, note: str = "") -> str:
    told = f"<p>{escape(note)}</p>" if note else ""
    return f"<section><h2>{escape(heading)}</h2>{told}{content}</section>" if content else ""


def _glossary() -> str:
    terms = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in EXPLAINED.items())
    return f"<details><summary>What the words mean</summary><dl>{terms}</dl></details>"


def _list(lines: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>" if lines else ""


def _verdicts(results: Sequence[Results]) -> str:
    lines = [line for run in results for line in verdicts(run)]
    if len(lines) <= _FEW:
        return _list(lines)
    return (
        f"<details><summary>{len(lines)} points, a sentence each</summary>{_list(lines)}</details>"
    )


def _fronts(results: list[Results]) -> str:
    metrics, samplers = headline(results), shown_samplers(results)
    if not metrics:
        return ""
    parts = [_key(pareto_keys(results, samplers))]
    for sampler in samplers:
        figures = {m.heading: pareto_figure(results, [m], [sampler], key=False) for m in metrics}
        parts.append(f"<h3>{escape(sampler)}</h3>" * (len(samplers) > 1) + _plots(figures))
    return "".join(parts)


def _corrected(runs: Sequence[tuple[Path, Results]]) -> str:
    report = corrected_report(runs)
    tables = [
        f"<h3>{escape(name)}</h3>{_table(content)}" for name, content in report.tables.items()
    ]
    note = f"<p>{escape(BEST_PLAIN)}</p>" if tables else ""
    return _plots(report.figures, "plots large") + note + "".join(tables)


def _curves(results: list[Results]) -> str:
    varied = variation(results)
    if varied is None:
        return ""
    metrics = measured(results)
    figures = {m.heading: curves_figure(results, varied, [m], key=False) for m in metrics}
    return _key(method_keys(p.method for run in results for p in run.points)) + _plots(figures)


def _styles(results: list[Results]) -> str:
    if not has_styles(results):
        return ""
    return _plots({"style over content": styles_figure(results)}, "plots large")


def _key(entries: Sequence[Line2D]) -> str:
    """A legend for several plots."""

    def sign(entry: Line2D) -> str:
        line = {"--": "dash", ":": "dots"}.get(str(entry.get_linestyle()))
        shape = line or ("dot" if entry.get_marker() == "o" else "bar")
        return f'<i class="{shape}" style="color:{entry.get_color()}"></i>'

    items = [f"<li>{sign(e)}{escape(str(e.get_label()))}</li>" for e in entries]
    return f'<ul class="key">{"".join(items)}</ul>'


def _plots(figures: dict[str, Figure], kind: str = "plots") -> str:
    cells = [
        f'<img alt="{escape(name)}" src="{_inline(png(figure, _DPI))}">'
        for name, figure in figures.items()
    ]
    return f'<div class="{kind}">{"".join(cells)}</div>' if cells else ""


def _inline(content: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


def _tables(results: Sequence[Results]) -> list[str]:
    points = distinct([point for run in results for point in run.points])
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
            figures.append(
                f"<figure><figcaption>{escape(run.run)}</figcaption>"
                f'<div class="wide" tabindex="0">{picture}</div></figure>'
            )
    if not figures:
        return ""
    buttons = (
        '<p class="buttons"><button type="button" data-by="-1">&#8592; previous</button>'
        ' <span class="where"></span>'
        ' <button type="button" data-by="1">next &#8594;</button></p>'
    )
    return f'<div class="viewer">{buttons if len(figures) > 1 else ""}{"".join(figures)}</div>'
