"""Picture sheets: prompts down the side, methods across, a note under each picture."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from redi.errors import UsageError
from redi.files import write_durably
from redi.report.labels import DASH

SCALE = 2  # enlargement, nearest neighbour
MARGIN, GAP, PROMPT_WIDTH = 12, 10, 150  # pixels
_SIZE, _LEADING, _NOTE_SIZE, _NOTE_LEADING = 13, 17, 11, 14
_PIECE = re.compile(r"\s*(?:[^\s-]+-?|-)")
_INK, _FAINT, _EMPTY, _PAPER = "#1a1a1a", "#555555", "#eeeeee", "#ffffff"


@dataclass(frozen=True)
class SheetRow:
    """One prompt; `images` (uint8, H x W x 3) and `notes` (text below a picture) by column."""

    prompt: str
    images: Mapping[str, np.ndarray]
    notes: Mapping[str, str] = field(default_factory=dict)


def sheet(
    rows: Sequence[SheetRow], path: Path, columns: Sequence[str], labels: Mapping[str, str]
) -> None:
    """Write a PNG with a row per prompt and a column per name, headed by its label.

    A column without a label goes by its own name; a picture that a row lacks is an empty cell.
    Raises UsageError where there is no row or column, and for pictures of another type or size.
    """
    height, width = (SCALE * side for side in _picture_size(rows, columns))
    prompts = [_wrapped(row.prompt, PROMPT_WIDTH, _SIZE) for row in rows]
    notes = [
        {name: _wrapped(row.notes.get(name, ""), width, _NOTE_SIZE) for name in columns}
        for row in rows
    ]
    headings = [_wrapped(labels.get(name, name), width, _SIZE, bold=True) for name in columns]
    head = _LEADING * max(map(len, headings)) + 4
    extents = [
        max(
            _LEADING * len(prompt),
            height + 3 + _NOTE_LEADING * max(len(lines) for lines in below.values()),
        )
        for prompt, below in zip(prompts, notes, strict=True)
    ]
    lefts = [MARGIN + PROMPT_WIDTH + GAP + i * (width + GAP) for i in range(len(columns))]
    total = 2 * MARGIN + head + sum(extents) + GAP * (len(rows) - 1)
    canvas = Image.new("RGB", (lefts[-1] + width + MARGIN, total), _PAPER)
    draw = ImageDraw.Draw(canvas)

    for left, lines in zip(lefts, headings, strict=True):
        offset = head - 4 - _LEADING * len(lines)
        _write(draw, (left, MARGIN + offset), lines, _SIZE, _LEADING, _INK, bold=True)
    top = MARGIN + head
    for row, prompt, below, extent in zip(rows, prompts, notes, extents, strict=True):
        _write(draw, (MARGIN, top), prompt, _SIZE, _LEADING, _INK)
        for left, name in zip(lefts, columns, strict=True):
            if name in row.images:
                picture = Image.fromarray(np.ascontiguousarray(row.images[name]))
                nearest = Image.Resampling.NEAREST
                canvas.paste(picture.resize((width, height), nearest), (left, top))
            else:
                draw.rectangle((left, top, left + width - 1, top + height - 1), fill=_EMPTY)
                middle = (left + width / 2, top + height / 2)
                draw.text(middle, DASH, _FAINT, _font(_SIZE), anchor="mm")
            place = (left, top + height + 3)
            _write(draw, place, below[name], _NOTE_SIZE, _NOTE_LEADING, _FAINT)
        top += extent + GAP
    write_durably(path, lambda temporary: canvas.save(temporary, format="PNG", optimize=True))


def _picture_size(rows: Sequence[SheetRow], columns: Sequence[str]) -> tuple[int, int]:
    """(H, W) that all pictures share, before enlargement."""
    if not columns:
        raise UsageError("columns is empty: name at least one column of the sheet")
    pictures = [
        (row.prompt, name, row.images[name])
        for row in rows
        for name in columns
        if name in row.images
    ]
    if not pictures:
        raise UsageError(f"rows hold no picture for columns {list(columns)}: give at least one")
    first = pictures[0][2].shape
    for prompt, name, image in pictures:
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise UsageError(
                f"images[{name!r}] of {prompt!r} is {image.dtype} {image.shape}: "
                "give uint8 (H, W, 3)"
            )
        if image.shape != first:
            raise UsageError(
                f"images[{name!r}] of {prompt!r} has shape {image.shape}, the first picture has "
                f"{first}: give pictures of one size"
            )
    return first[0], first[1]


def _wrapped(text: str, width: int, size: int, bold: bool = False) -> list[str]:
    """Lines no wider than `width` pixels, broken at spaces and hyphens, else inside a word."""
    font = _font(size, bold)
    lines: list[str] = []
    for paragraph in text.splitlines():
        line = ""
        for piece in _PIECE.findall(paragraph):
            if font.getlength((line + piece).lstrip()) <= width:
                line = (line + piece).lstrip()
                continue
            lines += [line] if line else []
            word = piece.lstrip()
            while font.getlength(word) > width:
                fits = next(n for n in range(len(word), 0, -1) if _fits(font, word[:n], width))
                lines.append(word[:fits])
                word = word[fits:]
            line = word
        lines.append(line)
    return lines


def _fits(font: ImageFont.FreeTypeFont, text: str, width: int) -> bool:
    return len(text) == 1 or font.getlength(text) <= width


def _write(
    draw: ImageDraw.ImageDraw,
    place: tuple[int, int],
    lines: Sequence[str],
    size: int,
    leading: int,
    colour: str,
    bold: bool = False,
) -> None:
    for i, line in enumerate(lines):
        draw.text((place[0], place[1] + i * leading), line, colour, _font(size, bold))


@cache
def _font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    import matplotlib  # for its fonts alone

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts", "ttf", name)), size)
