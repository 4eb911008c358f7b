"""Captioned scenes for training and measuring, addressed by index so that a run can resume."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from redi.data.pixels import to_pixels, to_tensor
from redi.embedded.captions import Composition, captioned
from redi.embedded.scenes import Scene


@dataclass(frozen=True)
class SceneBatch:
    """Pictures in [-1, 1] of shape (B, 3, 64, 64), their scenes and what is said of them."""

    images: Tensor
    captions: list[str]
    said: list[Composition]
    scenes: list[Scene]

    def __getitem__(self, rows: list[int]) -> SceneBatch:
        captions, said, scenes = self.captions, self.said, self.scenes
        return SceneBatch(
            self.images[rows],
            [captions[i] for i in rows],
            [said[i] for i in rows],
            [scenes[i] for i in rows],
        )


def scene_batch(split: str, start: int, count: int, seed: int) -> SceneBatch:
    """Scenes `start` to `start + count` of one split."""
    images, captions, compositions, scenes = [], [], [], []
    for index in range(start, start + count):
        scene, said, rng = captioned(split, index, seed)
        images.append(scene.render(rng))
        captions.append(said.caption(rng))
        compositions.append(said)
        scenes.append(scene)
    return SceneBatch(to_tensor(np.stack(images)), captions, compositions, scenes)


def scene_batches(split: str, count: int, seed: int, size: int = 64) -> Iterator[SceneBatch]:
    """The first `count` scenes of one split, `size` at a time."""
    for start in range(0, count, size):
        yield scene_batch(split, start, min(size, count - start), seed)


def domain_hash(count: int = 16) -> str:
    """SHA-256 of the first pictures and captions: another one where the scenes were changed."""
    batch = scene_batch("train", 0, count, seed=0)
    digest = hashlib.sha256(to_pixels(batch.images).tobytes())
    digest.update("\n".join(batch.captions).encode())
    return digest.hexdigest()
