"""What a report is made of, before any markup: a list of sections, each a list of blocks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D


Piece = tuple[str, bool]  # text, and whether it is bold
Cell = list[Piece]


@dataclass(frozen=True)
class Grid:
    """Headings and rows of cells; the first `left` columns are names."""

    headings: list[str]
    left: int
    rows: list[list[Cell]]
    title: str = ""


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Lines:
    """Sentences as a list; folded away under `folded` where that is not empty."""

    lines: Sequence[str]
    folded: str = ""


@dataclass(frozen=True)
class Terms:
    """Words and what they mean, folded away under `folded`."""

    terms: Mapping[str, str]
    folded: str


@dataclass(frozen=True)
class Plot:
    """A figure as a file `<name>.png`, and as separate panels with one key where there are any."""

    name: str
    draw: Callable[[], Figure]
    panels: Callable[[], Mapping[str, Figure]] | None = None
    key: Sequence[Line2D] = ()
    title: str = ""
    dpi: int = 140


@dataclass(frozen=True)
class Sheets:
    """Picture sheets by caption."""

    sheets: Sequence[tuple[str, Path]]


@dataclass(frozen=True)
class Facts:
    """All facts and the configuration of one run, folded away under its name."""

    name: str
    facts: Mapping[str, str]
    config: Mapping[str, Any]


Block = Grid | Text | Lines | Terms | Plot | Sheets | Facts


@dataclass(frozen=True)
class Section:
    """A heading and what stands below it."""

    title: str
    blocks: Sequence[Block] = field(default_factory=tuple)
