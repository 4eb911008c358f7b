"""Backgrounds of the embedded scenes: eight colours, six kinds, edges as hard as pixels are."""

from __future__ import annotations

from functools import cache

import numpy as np

RESOLUTION = 64
COLOURS = {
    "white": (245, 245, 240),
    "black": (38, 38, 44),
    "red": (205, 62, 60),
    "orange": (242, 150, 62),
    "yellow": (248, 226, 112),
    "green": (112, 188, 112),
    "blue": (96, 152, 222),
    "purple": (150, 104, 192),
}
#: how often a scene has each kind
KINDS = {
    "plain": 0.12,
    "shaded": 0.1,
    "striped": 0.22,
    "dotted": 0.22,
    "horizon": 0.22,
    "split": 0.12,
}
#: kinds that have a second colour, which covers less than the first
TWO_COLOURED = ("striped", "dotted", "horizon", "split")
_DARKEST = 0.4  # of a shaded background, relative to its colour


def paint(
    kind: str, colour: str, accent: str | None, rng: np.random.Generator | None = None
) -> np.ndarray:
    """One background, float32 (64, 64, 3) in [0, 255].

    `rng` chooses what no caption says: direction, the place and width of every stripe, dot and
    step of the horizon, and a small jitter of the colours (none: one fixed choice).
    """
    rng = rng or np.random.default_rng(0)
    first = np.array(COLOURS[colour], np.float32) + rng.integers(-6, 7, 3)
    if kind == "plain":
        return np.broadcast_to(first, (RESOLUTION, RESOLUTION, 3)).clip(0, 255).copy()
    if kind == "shaded":
        along = _ramp(int(rng.integers(4)))[..., None]
        return (first * (1 - (1 - _DARKEST) * along)).clip(0, 255).astype(np.float32)
    second = np.array(COLOURS[accent or colour], np.float32) + rng.integers(-6, 7, 3)
    covered = _ACCENTS[kind](rng)[..., None]
    return np.where(covered, second, first).clip(0, 255).astype(np.float32)


@cache
def _axes() -> tuple[np.ndarray, np.ndarray]:
    rows, columns = np.mgrid[:RESOLUTION, :RESOLUTION].astype(np.float32)
    return rows, columns


def _ramp(direction: int) -> np.ndarray:
    """0 to 1 down, up, to the right or to the left."""
    rows, columns = _axes()
    along = (rows, columns)[direction // 2] / (RESOLUTION - 1)
    return 1 - along if direction % 2 else along


def _stripes(rng: np.random.Generator) -> np.ndarray:
    """Stripes of one direction, each with a width and a distance of its own."""
    rows, columns = _axes()
    across = (rows, columns, 0.71 * (rows + columns), 0.71 * (rows - columns + 64))[rng.integers(4)]
    covered, place = np.zeros(across.shape, bool), -4.0 * rng.integers(4)
    while place < across.max():
        width = (4, 8)[rng.integers(2)]
        covered |= (across >= place) & (across < place + width)
        place += width + (8, 12, 16)[rng.integers(3)]
    return covered


def _dots(rng: np.random.Generator) -> np.ndarray:
    """Dots near the points of a grid, of which about a third are empty."""
    rows, columns = _axes()
    covered, period = np.zeros(rows.shape, bool), (14, 16)[rng.integers(2)]
    start = rng.integers(-period // 2, period // 2, 2)
    for x in range(start[0], RESOLUTION + period, period):
        for y in range(start[1], RESOLUTION + period, period):
            (dx, dy), radius = rng.integers(-2, 3, 2), rng.uniform(4.0, 5.5)
            if rng.random() < 0.7:
                covered |= (columns - x - dx) ** 2 + (rows - y - dy) ** 2 < radius**2
    return covered


def _ground(rng: np.random.Generator) -> np.ndarray:
    """A skyline: every eight columns have a height of their own."""
    rows, _ = _axes()
    heights = rng.integers(8, 15, RESOLUTION // 8) * 4
    return rows >= np.repeat(heights, 8)


def _side(rng: np.random.Generator) -> np.ndarray:
    rows, columns = _axes()
    across = (columns, (rows + columns) / 2, (columns - rows + RESOLUTION) / 2)[rng.integers(3)]
    share = rng.uniform(0.3, 0.42)
    if rng.random() < 0.5:
        return across < share * RESOLUTION
    return across >= (1 - share) * RESOLUTION


_ACCENTS = {"striped": _stripes, "dotted": _dots, "horizon": _ground, "split": _side}
