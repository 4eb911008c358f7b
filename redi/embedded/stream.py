"""Captioned scenes for training and measuring, addressed by index so that a run can resume."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from types import TracebackType

import numpy as np
from torch import Tensor

from redi.data.pixels import to_tensor
from redi.embedded.captions import Composition, captioned
from redi.embedded.scenes import Scene

PIECE = 256  # scenes that are painted at once


@dataclass(frozen=True)
class SceneBatch:
    """Pictures, their scenes and what is said of them."""

    pixels: np.ndarray  #                 uint8 (B, 64, 64, 3)
    captions: list[str]
    said: list[Composition]
    scenes: list[Scene]

    @property
    def images(self) -> Tensor:
        """The pictures in [-1, 1], float32 (B, 3, 64, 64)."""
        return to_tensor(self.pixels)


@dataclass(frozen=True)
class Span:
    """Scenes `start` to `start + count` of one split."""

    split: str
    start: int
    count: int
    seed: int

    def pieces(self, size: int) -> list[Span]:
        return [
            Span(self.split, self.start + first, min(size, self.count - first), self.seed)
            for first in range(0, self.count, size)
        ]


def paint(span: Span) -> SceneBatch:
    """All scenes of a span."""
    pixels, captions, compositions, scenes = [], [], [], []
    for index in range(span.start, span.start + span.count):
        scene, said, rng = captioned(span.split, index, span.seed)
        pixels.append(scene.render(rng))
        captions.append(said.caption(rng))
        compositions.append(said)
        scenes.append(scene)
    return SceneBatch(np.stack(pixels), captions, compositions, scenes)


def scene_batch(split: str, start: int, count: int, seed: int) -> SceneBatch:
    """Scenes `start` to `start + count` of one split."""
    return paint(Span(split, start, count, seed))


def scene_batches(split: str, count: int, seed: int, size: int = 64) -> Iterator[SceneBatch]:
    """The first `count` scenes of one split, `size` at a time."""
    yield from map(paint, Span(split, 0, count, seed).pieces(size))


class Painters:
    """Processes that paint scenes ahead of their use; none of them: painted where they are used.

    What they paint does not depend on how many they are.
    """

    def __init__(self, workers: int = 0) -> None:
        # a process that has begun to use a GPU cannot be forked
        self._pool = ProcessPoolExecutor(workers, get_context("spawn")) if workers else None
        self._begun: dict[Span, list[Future[SceneBatch]]] = {}

    def begin(self, span: Span) -> None:
        """Start to paint scenes that will be asked for."""
        if self._pool is not None and span not in self._begun:
            self._begun[span] = [self._pool.submit(paint, piece) for piece in span.pieces(PIECE)]

    def batches(self, span: Span) -> Iterator[SceneBatch]:
        """The scenes of a span in pieces, in their order."""
        self.begin(span)
        if self._pool is None:
            yield from map(paint, span.pieces(PIECE))
        for future in self._begun.pop(span, []):
            yield future.result()

    def __enter__(self) -> Painters:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)


def domain_hash(count: int = 16) -> str:
    """SHA-256 of the first pictures and captions: another one where the scenes were changed."""
    batch = scene_batch("train", 0, count, seed=0)
    digest = hashlib.sha256(batch.pixels.tobytes())
    digest.update("\n".join(batch.captions).encode())
    return digest.hexdigest()
