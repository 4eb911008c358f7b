"""A report as one self-contained HTML page: nothing is loaded from anywhere."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from redi.files import write_durably
from redi.report.blocks import Block, Cell, Facts, Grid, Lines, Plot, Section, Sheets, Terms, Text
from redi.report.figures import png
from redi.report.runs import load_runs
from redi.report.sections import report_sections
from redi.text import html_text as escape

if TYPE_CHECKING:
    from matplotlib.lines import Line2D

PAGE = "report.html"
_DPI = 150


def html_report(root: Path) -> Path:
    """Write `report.html` in `root` over every finished run at or below it.

    Raises UsageError where there is none or one cannot be read.
    """
    text = html_page(root.resolve().name, report_sections(load_runs(root)))
    path = root / PAGE
    write_durably(path, lambda temporary: temporary.write_text(text, "utf-8"))
    return path


def html_page(title: str, sections: Sequence[Section]) -> str:
    """The whole page."""
    body = [f"<h1>{escape(title)}</h1>", *map(_section, sections)]
    shell = files("redi.report").joinpath("page.html").read_text("utf-8")
    return shell.replace("{{title}}", escape(title)).replace("{{body}}", "\n".join(body))


def _section(section: Section) -> str:
    heading = f"<h2>{escape(section.title)}</h2>" if section.title else ""
    content = "".join(_WRITERS[type(block)](block) for block in section.blocks)
    return f"<section>{heading}{content}</section>"


def _text(block: Text) -> str:
    return f"<p>{escape(block.text)}</p>"


def _lines(block: Lines) -> str:
    lines = f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in block.lines)}</ul>"
    return _fold(block.folded, lines) if block.folded else lines


def _terms(block: Terms) -> str:
    terms = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in block.terms.items())
    return _fold(block.folded, f"<dl>{terms}</dl>")


def _fold(summary: str, content: str) -> str:
    return f"<details><summary>{escape(summary)}</summary>{content}</details>"


def _plot(block: Plot) -> str:
    """Panels in a row below one key; a figure without panels is a large one."""
    heading = f"<h3>{escape(block.title)}</h3>" if block.title else ""
    figures = {block.name: block.draw()} if block.panels is None else block.panels()
    cells = "".join(
        f'<img alt="{escape(name)}" src="{_inline(png(figure, _DPI))}">'
        for name, figure in figures.items()
    )
    kind = "plots large" if block.panels is None else "plots"
    return f'{heading}{_key(block.key)}<div class="{kind}">{cells}</div>'


def _key(entries: Sequence[Line2D]) -> str:
    """A legend for several plots."""

    def sign(entry: Line2D) -> str:
        line = {"--": "dash", ":": "dots"}.get(str(entry.get_linestyle()))
        shape = line or ("dot" if entry.get_marker() == "o" else "bar")
        return f'<i class="{shape}" style="color:{entry.get_color()}"></i>'

    items = [f"<li>{sign(e)}{escape(e.get_label())}</li>" for e in entries]
    return f'<ul class="key">{"".join(items)}</ul>' if items else ""


def _inline(content: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


def _grid(content: Grid) -> str:
    def side(column: int) -> str:
        return ' class="name"' if column < content.left else ""

    head = "".join(f"<th{side(i)}>{escape(h)}</th>" for i, h in enumerate(content.headings))
    rows = [
        "".join(f"<td{side(i)}>{_cell(cell)}</td>" for i, cell in enumerate(row))
        for row in content.rows
    ]
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    heading = f"<h3>{escape(content.title)}</h3>" if content.title else ""
    return f'{heading}<div class="wide" tabindex="0">{table}</div>'


def _cell(cell: Cell) -> str:
    return "".join(f"<b>{escape(text)}</b>" if bold else escape(text) for text, bold in cell)


def _sheets(block: Sheets) -> str:
    """One sheet at a time, with buttons; without scripts all of them one below the other."""
    figures = [
        f'<figure><figcaption>{escape(name)}</figcaption><div class="wide" tabindex="0">'
        f'<img alt="sheet of {escape(name)}" src="{_inline(path.read_bytes())}"></div></figure>'
        for name, path in block.sheets
    ]
    buttons = (
        '<p class="buttons"><button type="button" data-by="-1">&#8592; previous</button>'
        ' <span class="where"></span>'
        ' <button type="button" data-by="1">next &#8594;</button></p>'
    )
    return f'<div class="viewer">{buttons if len(figures) > 1 else ""}{"".join(figures)}</div>'


def _facts(block: Facts) -> str:
    rows = "".join(
        f"<tr><td>{escape(k)}</td><td>{escape(v)}</td></tr>" for k, v in block.facts.items()
    )
    table = f'<table class="facts"><tbody>{rows}</tbody></table>'
    config = escape(json.dumps(block.config, indent=1), lines=True)
    return _fold(block.name, f'<div class="wide" tabindex="0">{table}</div><pre>{config}</pre>')


_WRITERS: dict[type[Block], Callable[[Any], str]] = {
    Grid: _grid,
    Text: _text,
    Lines: _lines,
    Terms: _terms,
    Plot: _plot,
    Sheets: _sheets,
    Facts: _facts,
}
