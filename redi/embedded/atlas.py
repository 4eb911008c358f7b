"""The sprite atlas: openly licensed emoji in three drawing styles (see assets/ATTRIBUTION.md)."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

ASSETS = Path(__file__).resolve().parent.parent / "assets"
CELL = 64
STYLES = ("noto", "flat", "3d")


@cache
def nouns() -> tuple[str, ...]:
    """Nouns of all concepts in the atlas, in row order."""
    return tuple(item["noun"] for item in json.loads((ASSETS / "concepts.json").read_text()))


@cache
def sprite(noun: str, style: str, side: int) -> np.ndarray:
    """One sprite resized to `side` pixels: float32 (side, side, 4), premultiplied, in [0, 1]."""
    row, column = nouns().index(noun), STYLES.index(style)
    box = (CELL * column, CELL * row, CELL * (column + 1), CELL * (row + 1))
    cell = _atlas().crop(box).convert("RGBa").resize((side, side), Image.Resampling.LANCZOS)
    return np.frombuffer(cell.tobytes(), np.uint8).reshape(side, side, 4).astype(np.float32) / 255


@cache
def _atlas() -> Image.Image:
    return Image.open(ASSETS / "atlas.webp").convert("RGBA")
