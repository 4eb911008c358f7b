"""Endless batches of captioned scenes for training, addressed by index so that a run can resume."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from redi.data.pixels import to_tensor
from redi.embedded.scenes import ATTRIBUTES, Scene, sample


@dataclass(frozen=True)
class SceneBatch:
    """Pictures in [-1, 1] of shape (B, 3, 64, 64), their captions and their scenes."""

    images: Tensor
    captions: list[str]
    scenes: list[Scene]


class SceneStream(Dataset):
    """Scenes `start` to `start + count` of one split.

    `omit` gives, per attribute, the probability that a caption leaves it unsaid.
    """

    def __init__(
        self, split: str, start: int, count: int, seed: int, omit: dict[str, float] | None = None
    ) -> None:
        self.split, self.start, self.count, self.seed = split, start, count, seed
        self.omit = omit or {}

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, offset: int) -> tuple[np.ndarray, str, Scene]:
        scene, rng = sample(self.split, self.start + offset, self.seed)
        image = scene.render(rng)
        omitted = tuple(name for name in ATTRIBUTES if rng.random() < self.omit.get(name, 0.0))
        if len(omitted) == len(ATTRIBUTES):
            omitted = omitted[1:]
        return image, scene.caption(rng, omitted), scene


def collate(items: list[tuple[np.ndarray, str, Scene]]) -> SceneBatch:
    """Stack samples of a `SceneStream`."""
    images, captions, scenes = zip(*items, strict=True)
    return SceneBatch(to_tensor(np.stack(images)), list(captions), list(scenes))


def loader(stream: SceneStream, batch_size: int, workers: int = 0) -> DataLoader:
    """Batches of a stream, in order."""
    return DataLoader(stream, batch_size, collate_fn=collate, num_workers=workers)
