"""Emoji scenes: captioned 64x64 pictures, a pure function of (split, index, seed).

A scene is one object with a background colour, a size, a place and a drawing style. Splits are made
by *composition*: every combination of the five attributes is hashed into exactly one of `train`,
`kb` and `query`, so a query prompt was never trained on and is never in a knowledge base, while
each single word was.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, replace
from functools import cache
from itertools import product

import numpy as np

from redi.embedded.atlas import STYLES, nouns, sprite
from redi.errors import UsageError

RESOLUTION = 64
OBJECTS = nouns()[:32]
BACKGROUNDS = {
    "white": (245, 245, 240),
    "black": (38, 38, 44),
    "red": (205, 62, 60),
    "orange": (242, 150, 62),
    "yellow": (248, 226, 112),
    "green": (112, 188, 112),
    "blue": (96, 152, 222),
    "purple": (150, 104, 192),
}
SIZES = {"large": 42, "small": 28}  # side of the sprite in pixels
PLACES = {"middle": (0, 0), "left": (-1, 0), "right": (1, 0), "top": (0, -1), "bottom": (0, 1)}
SHIFT = {"large": 8, "small": 16}  # pixels off centre
SPLITS = {"train": 0.35, "kb": 0.55, "query": 0.10}

_SIZE_WORDS = {"large": ("large", "big"), "small": ("small", "little", "tiny")}
_PLACE_WORDS = {
    "middle": ("in the middle", "in the center"),
    "left": ("on the left",),
    "right": ("on the right",),
    "top": ("at the top",),
    "bottom": ("at the bottom",),
}


@dataclass(frozen=True)
class Scene:
    """One composition. `ATTRIBUTES` lists the values that each field may take."""

    object: str
    background: str
    style: str
    size: str
    place: str

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value not in ATTRIBUTES[name]:
                known = ", ".join(ATTRIBUTES[name])
                raise UsageError(f"scene attribute {name}={value!r} is unknown; use one of {known}")

    def split(self) -> str:
        """The one split that this composition belongs to."""
        text = "/".join(asdict(self).values())
        digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
        position = int.from_bytes(digest, "little") / 2**64
        for name, share in SPLITS.items():
            if position < share:
                return name
            position -= share
        return "query"

    def caption(self, rng: np.random.Generator | None = None, omit: tuple[str, ...] = ()) -> str:
        """A sentence for the scene; `rng` picks template and synonyms (none: the plainest).

        Attributes named in `omit` are left unsaid.
        """
        pick = (lambda options: options[rng.integers(len(options))]) if rng else (lambda o: o[0])
        noun = "picture" if "object" in omit else self.object
        size = "" if "size" in omit else pick(_SIZE_WORDS[self.size]) + " "
        place = "" if "place" in omit else " " + pick(_PLACE_WORDS[self.place])
        style = "" if "style" in omit else f"{self.style} style"
        subject = _article(size + noun) + place
        template = pick((0, 1, 2, 3))
        if "background" not in omit:
            on = f" on {_article(self.background + ' background')}"
            subject += f", {self.background} background" if template == 1 else on
        if not style:
            return subject
        if template == 2:
            return f"{style}, {subject}"
        if template == 3:
            return f"{_article(style)} picture of {subject}"
        return f"{subject}, {style}"

    def render(self, rng: np.random.Generator | None = None) -> np.ndarray:
        """The picture: uint8 (64, 64, 3); `rng` jitters colour, size and place a little."""
        colour = np.array(BACKGROUNDS[self.background], np.float32)
        side, shift = SIZES[self.size], SHIFT[self.size]
        dx, dy = (shift * step for step in PLACES[self.place])
        if rng:
            colour = colour + rng.integers(-6, 7, 3)
            side += 2 * int(rng.integers(-1, 2))
            dx, dy = dx + int(rng.integers(-1, 2)), dy + int(rng.integers(-1, 2))
        drawn = sprite(self.object, self.style, side)
        left, top = (RESOLUTION - side) // 2 + dx, (RESOLUTION - side) // 2 + dy
        image = np.empty((RESOLUTION, RESOLUTION, 3), np.float32)
        image[:] = np.clip(colour, 0, 255)
        patch = image[top : top + side, left : left + side]
        patch *= 1 - drawn[..., 3:]
        patch += 255 * drawn[..., :3]
        return np.clip(np.rint(image), 0, 255).astype(np.uint8)


ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "object": OBJECTS,
    "background": tuple(BACKGROUNDS),
    "style": STYLES,
    "size": tuple(SIZES),
    "place": tuple(PLACES),
}


def _article(phrase: str) -> str:
    return ("an " if phrase[0] in "aeiou" else "a ") + phrase


@cache
def compositions(split: str) -> tuple[Scene, ...]:
    """All compositions of one split, in a fixed shuffled order."""
    if split not in SPLITS:
        raise UsageError(f"data split {split!r} is unknown; use one of {', '.join(SPLITS)}")
    scenes = [Scene(*values) for values in product(*ATTRIBUTES.values())]
    mine = [scene for scene in scenes if scene.split() == split]
    order = np.random.default_rng(0).permutation(len(mine))
    return tuple(mine[i] for i in order)


def sample(split: str, index: int, seed: int = 0) -> tuple[Scene, np.random.Generator]:
    """The scene number `index` of an endless stream, and the generator to draw and caption it."""
    rng = np.random.default_rng([seed, tuple(SPLITS).index(split), index])
    mine = compositions(split)
    return mine[rng.integers(len(mine))], rng


def prompts(
    split: str,
    count: int,
    seed: int = 0,
    omit: tuple[str, ...] = (),
    styles: tuple[str, ...] = STYLES,
) -> tuple[list[Scene], list[str]]:
    """The first `count` prompts of a split: distinct compositions until the split is used up.

    A smaller request is a prefix of a larger one. Past the last composition the list starts over
    with other wordings. `styles` keeps the compositions in these drawing styles; `omit` leaves
    attributes unsaid without changing the other words.
    """
    for style in styles:
        if style not in STYLES:
            raise UsageError(f"drawing style {style!r} is unknown; use any of {', '.join(STYLES)}")
    mine = tuple(scene for scene in compositions(split) if scene.style in styles)
    if not mine:
        raise UsageError(f"no drawing style is left: use any of {', '.join(STYLES)}")
    order = np.random.default_rng([seed, 7]).permutation(len(mine))
    scenes = [mine[order[i % len(mine)]] for i in range(count)]
    captions = [
        scene.caption(np.random.default_rng([seed, 11, i]), omit) for i, scene in enumerate(scenes)
    ]
    return scenes, captions


def with_style(scene: Scene, style: str) -> Scene:
    """The same composition in another drawing style."""
    return replace(scene, style=style)
