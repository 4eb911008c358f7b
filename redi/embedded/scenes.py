"""Emoji scenes: 64x64 pictures of one to four objects, a pure function of (split, index, seed).

A scene has a main object of one size and place, up to three smaller ones, one drawing style and a
background. What a caption says of it, and which split that belongs to, is in
`redi.embedded.captions`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from redi.embedded.atlas import STYLES, nouns, sprite
from redi.embedded.backgrounds import COLOURS, KINDS, RESOLUTION, TWO_COLOURED, paint
from redi.errors import UsageError

OBJECTS = nouns()[:32]
SIZES = {"large": 40, "small": 28}  # side of the main object in pixels
PLACES = {"middle": (0, 0), "left": (-1, 0), "right": (1, 0), "top": (0, -1), "bottom": (0, 1)}
SHIFT = {"large": 8, "small": 15}  # pixels off centre
SECOND, FURTHER = 22, 16  # sides of the second object and of the third and fourth
COUNTS = (0.3, 0.35, 0.22, 0.13)  # how often a scene has one, two, three and four objects
_UP_TO_COUNT, _UP_TO_KIND = np.cumsum(COUNTS), np.cumsum(list(KINDS.values()))
_CELLS = [(x, y) for y in (11, 32, 53) for x in (11, 32, 53)]  # centres of the smaller objects

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "object": OBJECTS,
    "second": OBJECTS,
    "background": tuple(COLOURS),
    "kind": tuple(KINDS),
    "style": STYLES,
    "size": tuple(SIZES),
    "place": tuple(PLACES),
}


@dataclass(frozen=True)
class Scene:
    """Everything that a full caption says. `ATTRIBUTES` lists the values of the main fields."""

    object: str
    background: str
    style: str
    size: str
    place: str
    kind: str = "plain"
    #: second colour of the background, for the kinds that have one
    accent: str | None = None
    #: the largest of the smaller objects
    second: str | None = None
    #: the third and fourth object
    others: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_values(self)
        if (self.accent is None) == (self.kind in TWO_COLOURED):
            need = "needs an" if self.accent is None else "has no"
            raise UsageError(f"scene attribute kind={self.kind!r} {need} accent")

    def render(self, rng: np.random.Generator | None = None) -> np.ndarray:
        """The picture: uint8 (64, 64, 3).

        `rng` decides what no caption says: the background's geometry, the cells of the smaller
        objects, mirror images, a jitter of colour, size and place (none: one fixed choice).
        """
        jitter = rng is not None
        rng = rng or np.random.default_rng(0)
        image = paint(self.kind, self.background, self.accent, rng)
        side = SIZES[self.size] + (2 * int(rng.integers(-1, 2)) if jitter else 0)
        x, y = (
            RESOLUTION // 2 + SHIFT[self.size] * step + (int(rng.integers(-2, 3)) if jitter else 0)
            for step in PLACES[self.place]
        )
        free = [c for c in _CELLS if (c[0] - x) ** 2 + (c[1] - y) ** 2 >= (side / 2 + 6) ** 2]
        smaller = ([self.second] if self.second else []) + list(self.others)
        cells = rng.permutation(len(free))[: len(smaller)]
        for rank, (noun, cell) in reversed(list(enumerate(zip(smaller, cells, strict=True)))):
            size = (SECOND if rank == 0 else FURTHER) + int(rng.integers(-1, 2))
            dx, dy = rng.integers(-2, 3, 2)
            self._draw(image, noun, size, free[cell][0] + dx, free[cell][1] + dy, rng)
        self._draw(image, self.object, side, x, y, rng if jitter else None)
        return np.clip(np.rint(image), 0, 255).astype(np.uint8)

    def _draw(
        self,
        image: np.ndarray,
        noun: str,
        side: int,
        x: int,
        y: int,
        rng: np.random.Generator | None,
    ) -> None:
        """Lay one sprite over the image, centred at (x, y), perhaps mirrored, kept inside."""
        drawn = sprite(noun, self.style, side)
        if rng is not None and rng.random() < 0.5:
            drawn = drawn[:, ::-1]
        left, top = (int(np.clip(c - side // 2, 0, RESOLUTION - side)) for c in (x, y))
        patch = image[top : top + side, left : left + side]
        patch *= 1 - drawn[..., 3:]
        patch += 255 * drawn[..., :3]


def check_values(described: object) -> None:
    """Refuse values that no scene has; `None` says nothing and passes."""
    for name, known in ATTRIBUTES.items():
        value = getattr(described, name)
        if value is not None and value not in known:
            raise UsageError(
                f"scene attribute {name}={value!r} is unknown; use one of {', '.join(known)}"
            )


def draw_scene(rng: np.random.Generator) -> Scene:
    """A scene from the domain's law: different objects, everything else independent."""
    count = 1 + int(np.searchsorted(_UP_TO_COUNT, rng.random()))
    first, *smaller = (OBJECTS[i] for i in rng.permutation(len(OBJECTS))[:count])
    kind = tuple(KINDS)[int(np.searchsorted(_UP_TO_KIND, rng.random()))]
    colour, accent = (tuple(COLOURS)[i] for i in rng.permutation(len(COLOURS))[:2])
    return Scene(
        object=first,
        background=colour,
        style=STYLES[rng.integers(len(STYLES))],
        size=tuple(SIZES)[rng.integers(len(SIZES))],
        place=tuple(PLACES)[rng.integers(len(PLACES))],
        kind=kind,
        accent=accent if kind in TWO_COLOURED else None,
        second=smaller[0] if smaller else None,
        others=tuple(smaller[1:]),
    )
