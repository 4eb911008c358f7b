"""Captions that say part of a scene, and splits by what is said.

A *composition* is the combination of things that a caption says. Each composition is hashed into
exactly one of `train`, `kb` and `query`: what a query says was, as a combination, never trained on
and is in no knowledge base, while each single word was.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Any

import numpy as np

from redi.embedded.atlas import STYLES
from redi.embedded.scenes import Scene, check_values, draw_scene
from redi.errors import UsageError

SPLITS = {"train": 0.45, "kb": 0.45, "query": 0.10}
#: query and KB captions: `open` says two to four things, `full` says everything
CAPTIONS = ("open", "full")
#: things beside the object that an open caption may say
OPTIONAL = ("background", "kind", "style", "size", "place", "second")
NAMES_OBJECT = 0.95  # how often an open caption names the main object
FULL_SHARE = 0.15  # of training captions that say everything
_SAID = {"open": (0.0, 0.4, 0.4, 0.2), "train": (0.06, 0.36, 0.34, 0.16, 0.08)}
_TRIES = 2000  # draws without a new composition before a split counts as used up

_SIZE_WORDS = {"large": ("large", "big"), "small": ("small", "little", "tiny")}
_PLACE_WORDS = {
    "middle": ("in the middle", "in the center"),
    "left": ("on the left",),
    "right": ("on the right",),
    "top": ("at the top",),
    "bottom": ("at the bottom",),
}


@dataclass(frozen=True)
class Composition:
    """What a caption says: a value of `ATTRIBUTES` for each thing said, `None` for the rest."""

    object: str | None = None
    background: str | None = None
    style: str | None = None
    size: str | None = None
    place: str | None = None
    kind: str | None = None
    accent: str | None = None
    second: str | None = None
    others: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_values(self)

    def split(self) -> str:
        """The one split that this combination belongs to."""
        said = [f"{name}={value}" for name, value in vars(self).items() if value]
        digest = hashlib.blake2b("/".join(said).encode(), digest_size=8).digest()
        position = int.from_bytes(digest, "little") / 2**64
        for name, share in SPLITS.items():
            if position < share:
                return name
            position -= share
        return "query"

    def caption(self, rng: np.random.Generator | None = None) -> str:
        """A sentence; `rng` picks template and synonyms (none: the plainest).

        The draws do not depend on what is said, so leaving something unsaid changes no other word.
        """
        size_word, place_word, template = (0.0,) * 3 if rng is None else rng.random(3)
        subject = _article(
            (_pick(_SIZE_WORDS[self.size], size_word) + " " if self.size else "")
            + (self.object or "object")
        )
        if self.place:
            subject += " " + _pick(_PLACE_WORDS[self.place], place_word)
        smaller = [_article(noun) for noun in (self.second, *self.others) if noun]
        if smaller:
            subject += " with " + " and ".join(smaller)
        form = int(4 * template)
        colours = " and ".join(colour for colour in (self.background, self.accent) if colour)
        if colours or self.kind:
            ground = " ".join(word for word in (self.kind, colours, "background") if word)
            subject += f", {ground}" if form == 1 else f" on {_article(ground)}"
        if not self.style:
            return subject
        if form == 2:
            return f"{self.style} style, {subject}"
        if form == 3:
            return f"{_article(self.style)} style picture of {subject}"
        return f"{subject}, {self.style} style"


def _pick(options: tuple[str, ...], draw: float) -> str:
    return options[int(draw * len(options))]


def _article(phrase: str) -> str:
    return ("an " if phrase[0] in "aeiou" else "a ") + phrase


def say_all(scene: Scene) -> Composition:
    """The composition of a full caption."""
    return Composition(**{f.name: getattr(scene, f.name) for f in fields(Composition)})


def say_some(scene: Scene, rng: np.random.Generator, mode: str) -> Composition:
    """The composition of a caption that says part of the scene; `mode` is open or train."""
    count = int(np.searchsorted(np.cumsum(_SAID[mode]), rng.random()))
    names_object = rng.random() < NAMES_OBJECT
    possible = [name for name in OPTIONAL if getattr(scene, name) is not None]
    count = min(max(count + (not names_object), 1 - names_object), len(possible))
    said = [possible[i] for i in rng.permutation(len(possible))[:count]]
    said += ["object"] if names_object else []
    return Composition(**{name: getattr(scene, name) for name in said})


def captioned(
    split: str, index: int, seed: int = 0
) -> tuple[Scene, Composition, np.random.Generator]:
    """Number `index` of an endless stream: scene, what is said of it, generator to draw it with.

    One caption in seven says everything, the others mostly one or two things beside the object.
    """
    rng = np.random.default_rng([seed, _number(split), index])
    while True:
        scene = draw_scene(rng)
        whole = rng.random() < FULL_SHARE
        said = say_all(scene) if whole else say_some(scene, rng, "train")
        if said.split() == split:
            return scene, said, rng


def sample(split: str, index: int, seed: int = 0) -> tuple[Scene, np.random.Generator]:
    """The scene number `index` of an endless stream, and the generator to draw it with."""
    scene, _, rng = captioned(split, index, seed)
    return scene, rng


def prompts(
    split: str,
    count: int,
    seed: int = 0,
    captions: str = "open",
    styles: tuple[str, ...] | None = None,
    omit: tuple[str, ...] = (),
) -> tuple[list[Composition], list[str]]:
    """The first `count` prompts of a split, all of different compositions.

    A smaller request is a prefix of a larger one. `styles` keeps the compositions that name one of
    these drawing styles (None: also those that name none); `omit` leaves things unsaid
    without changing the other words.
    """
    _number(split)
    if captions not in CAPTIONS:
        raise UsageError(f"data.captions={captions!r} is unknown; use {' or '.join(CAPTIONS)}")
    for style in styles or ():
        if style not in STYLES:
            raise UsageError(f"drawing style {style!r} is unknown; use any of {', '.join(STYLES)}")
    if styles == ():
        raise UsageError(f"no drawing style is left: use any of {', '.join(STYLES)}")
    named = None if styles is None else tuple(sorted(set(styles)))
    found = _Prompts.of(split, seed, captions, named).first(count)
    said = [composition for composition, _ in found]
    if omit:
        unsaid: dict[str, Any] = dict.fromkeys(omit)
        texts = [
            replace(composition, **unsaid).caption(np.random.default_rng(wording))
            for composition, wording in found
        ]
        return said, texts
    return said, [c.caption(np.random.default_rng(wording)) for c, wording in found]


class _Prompts:
    """A list that grows on demand: compositions in the order of their first draw."""

    def __init__(
        self, split: str, seed: int, captions: str, styles: tuple[str, ...] | None
    ) -> None:
        self.split, self.seed, self.captions, self.styles = split, seed, captions, styles
        self.found: list[tuple[Composition, list[int]]] = []
        self.known: set[Composition] = set()
        self.draws = 0

    @classmethod
    @cache
    def of(cls, split: str, seed: int, captions: str, styles: tuple[str, ...] | None) -> _Prompts:
        return cls(split, seed, captions, styles)

    def first(self, count: int) -> list[tuple[Composition, list[int]]]:
        fruitless = 0
        while len(self.found) < count:
            rng = np.random.default_rng([self.seed, 7, self.draws])
            scene = draw_scene(rng)
            said = say_all(scene) if self.captions == "full" else say_some(scene, rng, "open")
            kept = self.styles is None or said.style in self.styles
            if kept and said.split() == self.split and said not in self.known:
                self.known.add(said)
                self.found.append((said, [self.seed, 11, self.draws]))
                fruitless = 0
            self.draws += 1
            fruitless += 1
            if fruitless > _TRIES:
                raise UsageError(
                    f"{count} prompts are wanted and the split {self.split!r} with "
                    f"data.captions={self.captions} holds about {len(self.found)}: use fewer"
                )
        return self.found[:count]


def _number(split: str) -> int:
    if split not in SPLITS:
        raise UsageError(f"data split {split!r} is unknown; use one of {', '.join(SPLITS)}")
    return tuple(SPLITS).index(split)
