"""Foreign text is shown as it is and does nothing."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from rich.table import Table

from redi.text import Terminal, csv_cell, markdown_cell, plain, shown


def printed(console: type[Console], *items: object) -> str:
    file = io.StringIO()
    console(file=file, width=100).print(*items)
    return file.getvalue()


def test_control_characters_are_written_out_and_letters_stay() -> None:
    assert shown("a\x1b[31mb\x07\n\u202e\u2028\x85\ud800") == (
        r"a\x1b[31mb\x07\n\u202e\u2028\x85\ud800"
    )
    kept = "é 日本\u3000क्‍ष \U0001f469\u200d\U0001f52c"
    assert shown(kept) == kept


@pytest.mark.parametrize("text", ["[/b] x", "[red]x[/red]", ":smile:", "\x1b]0;t\x07", "\\[b]"])
def test_a_terminal_prints_what_the_string_says(text: str) -> None:
    table = Table(title=text)
    table.add_column(text)
    table.add_row(text)
    assert printed(Terminal, text).strip() == shown(text)
    assert printed(Terminal, table).count(shown(text)) == 3
    assert printed(Console, plain(text)).strip() == shown(text)


def test_cells_of_other_formats_hold_text_alone() -> None:
    assert [csv_cell(v) for v in ("=1+1", "@a", "-x", "-1.5", -1.5, "a\x00")] == [
        "'=1+1", "'@a", "'-x", "'-1.5", -1.5, r"a\x00",
    ]  # fmt: skip
    assert markdown_cell("<b>|*x*\n`[a](b)") == r"&lt;b&gt;\|\*x\*\\n\`\[a\](b)"
