"""A report as Markdown; its figures become files beside it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from redi.report.blocks import Block, Cell, Facts, Grid, Lines, Plot, Section, Sheets, Terms, Text
from redi.report.figures import save_png
from redi.text import markdown_cell


def markdown_report(title: str, sections: Sequence[Section], folder: Path) -> str:
    """The text of a report; figures are written to `folder`."""
    parts = [f"# {markdown_cell(title)}"] if title else []
    for section in sections:
        parts += [f"## {markdown_cell(section.title)}"] if section.title else []
        for block in section.blocks:
            text = _WRITERS[type(block)](block, folder)
            parts += [text] if text else []
    return "\n\n".join(parts) + "\n"


def markdown_grid(content: Grid) -> str:
    """A grid as a Markdown table, without a final newline."""
    rule = ["---" if i < content.left else "---:" for i in range(len(content.headings))]
    rows = [[_cell(cell) for cell in row] for row in content.rows]
    head = [markdown_cell(heading) for heading in content.headings]
    table = "\n".join(f"| {' | '.join(row)} |" for row in [head, rule, *rows])
    return f"### {markdown_cell(content.title)}\n\n{table}" if content.title else table


def _cell(cell: Cell) -> str:
    return "".join(
        f"**{markdown_cell(text)}**" if bold else markdown_cell(text) for text, bold in cell
    )


def _text(block: Text, folder: Path) -> str:
    return markdown_cell(block.text)


def _lines(block: Lines, folder: Path) -> str:
    lines = "\n".join(f"- {markdown_cell(line)}" for line in block.lines)
    return _fold(block.folded, lines) if block.folded else lines


def _terms(block: Terms, folder: Path) -> str:
    terms = [f"- **{markdown_cell(k)}**: {markdown_cell(v)}" for k, v in block.terms.items()]
    return _fold(block.folded, "\n".join(terms))


def _fold(summary: str, content: str) -> str:
    title = markdown_cell(summary)
    return f"<details><summary>{title}</summary>\n\n{content}\n\n</details>"


def _plot(block: Plot, folder: Path) -> str:
    name = f"{block.name}.png"
    save_png(block.draw(), folder / name, block.dpi)
    return f"![{block.name}]({name})"


def _sheets(block: Sheets, folder: Path) -> str:
    return "\n".join(
        f"- [{markdown_cell(caption)}]({quote(Path(os.path.relpath(path, folder)).as_posix())})"
        for caption, path in block.sheets
    )


def _nothing(block: Facts, folder: Path) -> str:
    return ""  # `results.json` of the run holds it


_WRITERS: dict[type[Block], Callable[[Any, Path], str]] = {
    Grid: lambda block, _: markdown_grid(block),
    Text: _text,
    Lines: _lines,
    Terms: _terms,
    Plot: _plot,
    Sheets: _sheets,
    Facts: _nothing,
}
