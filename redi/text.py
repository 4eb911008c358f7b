"""Foreign text made visible: prompts, paths and names are printed as they are, and do nothing.

A name from another machine may hold what a terminal obeys (escape sequences), what `rich` takes for
markup, what a spreadsheet takes for a formula, or what Markdown and HTML take for structure.
"""

from __future__ import annotations

import html
import unicodedata
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.text import Text

_JOINERS = "\u200c\u200d"  # between letters of some scripts and parts of an emoji
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def shown(text: object) -> str:
    """One line of text with control characters written out: a line feed becomes `\\n`."""
    return "".join(c if _harmless(c) else _written_out(c) for c in str(text))


def plain(text: object) -> Text:
    """Text for `rich` without markup and emoji codes; lines stay lines."""
    return Text("\n".join(map(shown, str(text).split("\n"))))


def say_on(console: Console) -> Callable[[str], None]:
    """What prints a line of plain text on a console."""
    return lambda line: console.print(plain(line))


def csv_cell(value: Any) -> Any:
    """A CSV cell that no spreadsheet takes for a formula; numbers stay numbers."""
    if not isinstance(value, str):
        return value
    return "'" + shown(value) if value.startswith(_FORMULA) else shown(value)


def markdown_cell(text: object) -> str:
    """One Markdown table cell that shows the text and nothing else."""
    written = html.escape(shown(text), quote=False)
    return "".join("\\" + c if c in "\\`*_[]|#~!" else c for c in written)


def html_text(text: object, lines: bool = False) -> str:
    """HTML, also within quotes, that shows the text and nothing else; `lines` keeps line feeds."""
    parts = str(text).split("\n") if lines else [text]
    return "\n".join(html.escape(shown(part)) for part in parts)


class Terminal(Console):
    """A console that prints every string as plain text."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:  # type: ignore[override]
        """As `rich` does it, with control characters written out."""
        return super().render_str(plain(text).plain, **options)


def _harmless(character: str) -> bool:
    return (
        character.isprintable()
        or character in _JOINERS
        or unicodedata.category(character) == "Zs"  # spaces of any width
    )


def _written_out(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode()
