"""Structural similarity to the query's own full run."""

from __future__ import annotations

import numpy as np

from redi.lazy import Tensor, functional, torch
from redi.metrics.base import ALWAYS, PerPicture, metric, single
from redi.metrics.batch import FULL, BatchResult
from redi.metrics.images import unit_range

WINDOW, _DEVIATION = 11, 1.5  # pixels
_C1, _C2 = 0.01**2, 0.03**2


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Structural similarity, float64 (B,), 1 for equal pictures.

    Mean over all pixels and channels; the window is a Gaussian of 11 x 11 pixels and deviation
    1.5, and pictures are reflected at their borders; k1 = 0.01, k2 = 0.03 (Wang et al., 2004,
    equation 13).
    """
    a, b = unit_range(a, b)
    if min(a.shape[2:]) < WINDOW:
        raise ValueError(f"images are {a.shape[2]}x{a.shape[3]}; SSIM needs {WINDOW} pixels a side")
    a, b = (functional.pad(images, [WINDOW // 2] * 4, "reflect") for images in (a, b))
    mean_a, mean_b, aa, bb, ab = _smoothed(torch.stack([a, b, a * a, b * b, a * b]))
    squares = mean_a**2 + mean_b**2
    variances = (aa + bb - squares).clamp(min=0)
    alike = (2 * mean_a * mean_b + _C1) * (2 * (ab - mean_a * mean_b) + _C2)
    return (alike / ((squares + _C1) * (variances + _C2))).mean((1, 2, 3))


def _smoothed(images: Tensor) -> Tensor:
    """Local means (..., H - 10, W - 10): one matrix product for each axis."""
    height, width = (_window_over(size, images) for size in images.shape[-2:])
    return height @ images @ width.T


def _window_over(size: int, like: Tensor) -> Tensor:
    """The matrix (size - 10, size) that takes the window's mean at every place."""
    offsets = torch.arange(WINDOW, dtype=like.dtype, device=like.device) - WINDOW // 2
    weights = (-(offsets**2) / (2 * _DEVIATION**2)).exp()
    found = like.new_zeros((size - WINDOW + 1, size))
    for place, row in enumerate(found):
        row[place : place + WINDOW] = weights / weights.sum()
    return found


@metric
class Ssim(PerPicture):
    """Decoded pictures against those of the full run."""

    name, group = "ssim", "fidelity"
    qualities = single("ssim", "SSIM", place=11, shown=ALWAYS, margin=False)

    def values(self, batch: BatchResult, entry: str) -> np.ndarray | None:
        return None if entry == FULL else ssim(batch.images[entry], batch.images[FULL]).numpy()
