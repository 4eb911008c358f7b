"""Distances of picture sets by published protocols, from any extractor.

Pictures are uint8 (H, W, 3), as they would be read from PNG files: generated ones are rounded to
nearest before anything sees them. An extractor maps float pictures (B, 3, h, w) to features (B, D).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import torch
from cleanfid.resize import build_resizer
from torch import Tensor

Extractor = Callable[[Tensor], Tensor]
_BATCH = 32
_CMMD_SIGMA, _CMMD_SCALE = 10.0, 1000.0


def clean_features(pictures: Iterable[np.ndarray], extractor: Extractor) -> np.ndarray:
    """Features (N, D) by the clean-fid protocol (Parmar et al., 2022).

    Each channel is resized to 299 x 299 as float32 by Pillow's antialiased bicubic filter, clipped
    to [0, 255] and *not* rounded; the extractor sees values from 0 to 255.
    """
    resize = build_resizer("clean")
    return _features((torch.from_numpy(resize(p)).permute(2, 0, 1) for p in pictures), extractor)


def byte_features(pictures: Iterable[np.ndarray], extractor: Extractor) -> np.ndarray:
    """Features (N, D) as torchmetrics takes them: the extractor sees uint8 and resizes itself.

    torchmetrics' own Inception resizes bilinearly in float32, without rounding.
    """
    images = (torch.from_numpy(np.array(picture)).permute(2, 0, 1) for picture in pictures)
    return _features(images, extractor)


def cmmd(a: np.ndarray, b: np.ndarray) -> float:
    """CMMD of unit-length CLIP features (N, D) and (M, D) (Jayasumana et al., 2024).

    1000 times the squared MMD under the Gaussian kernel of width 10, pairs of a row with itself
    included, so it is never negative but for rounding.
    """
    first, second = (np.asarray(rows, np.float64) for rows in (a, b))

    def mean(x: np.ndarray, y: np.ndarray) -> float:
        squared = np.square(x).sum(1)[:, None] + np.square(y).sum(1) - 2 * x @ y.T
        return float(np.exp(-squared / (2 * _CMMD_SIGMA**2)).mean())

    return _CMMD_SCALE * (mean(first, first) + mean(second, second) - 2 * mean(first, second))


def _features(images: Iterable[Tensor], extractor: Extractor) -> np.ndarray:
    found, waiting = [], []
    for image in images:
        waiting.append(image)
        if len(waiting) == _BATCH:
            found.append(_call(extractor, waiting))
            waiting = []
    if waiting:
        found.append(_call(extractor, waiting))
    return np.concatenate(found)


@torch.no_grad()
def _call(extractor: Extractor, images: list[Tensor]) -> np.ndarray:
    return extractor(torch.stack(images)).cpu().double().numpy()
