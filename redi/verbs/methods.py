"""`redi methods`: every registered method with its settings, as a table."""

from __future__ import annotations

import inspect
from dataclasses import MISSING, fields
from typing import Any

from rich.console import Console
from rich.table import Table

from redi.errors import UsageError
from redi.methods import METHODS, Fitted, Method
from redi.methods.few.bases import BASES
from redi.methods.few.placement import placements


def rows() -> list[tuple[str, str, str]]:
    """Name, what it does, and settings with their defaults, of every method."""
    return [(name, about(kind), settings(kind)) for name, kind in METHODS.items()]


def about(kind: type[Method]) -> str:
    """The first sentence of a method's docstring, and whether it has to be fitted."""
    first = (inspect.getdoc(kind) or kind.title).split("\n\n")[0].replace("\n", " ")
    if not issubclass(kind, Fitted):
        return first
    return f"{first} Fitted once{', with many calls' if kind.end_to_end else ''}."


def settings(kind: type[Method]) -> str:
    """Settings as they are written on the command line."""
    found = []
    for field in fields(kind):  # type: ignore[arg-type]  # every method is a dataclass
        default: Any = field.default
        if default is MISSING:
            raise TypeError(f"setting {field.name} of method {kind.name} has no default")
        if default is None or isinstance(default, (bool, int, float, str, tuple)):
            found.append(f"{field.name}={'null' if default is None else default}")
    return " ".join(found)


def show_methods(arguments: list[str], console: Console) -> None:
    """Print all methods."""
    if arguments:
        raise UsageError(f"redi methods takes no arguments, got {arguments[0]!r}: leave it out")
    table = Table(title="methods: redi +methods=NAME, redi.enable(pipe, kb, NAME)", show_lines=True)
    for heading in ("name", "what it does", "settings"):
        table.add_column(heading)
    for row in rows():
        table.add_row(*row)
    console.print(table)
    console.print(f"base: {', '.join(BASES)}")
    console.print(f"levels: {', '.join(placements())}")
