"""Structural similarity to the query's own full run."""

from __future__ import annotations

import numpy as np

from redi.lazy import Tensor, torch
from redi.metrics.base import ALWAYS, PerPicture, metric, single
from redi.metrics.batch import FULL, BatchResult
from redi.metrics.images import unit_range

_SSIM_WINDOW = 11


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Structural similarity, float64 (B,), 1 for equal pictures.

    Gaussian window of 11 pixels and deviation 1.5, k1 = 0.01, k2 = 0.03 (Wang et al., 2004), by
    torchmetrics.
    """
    from torchmetrics.functional.image import structural_similarity_index_measure

    a, b = unit_range(a, b)
    if min(a.shape[2:]) < _SSIM_WINDOW:
        raise ValueError(
            f"images are {a.shape[2]}x{a.shape[3]}; SSIM needs {_SSIM_WINDOW} pixels a side"
        )
    if not len(a):
        return a.new_empty(0)
    value = structural_similarity_index_measure(
        a, b, kernel_size=_SSIM_WINDOW, sigma=1.5, reduction="none", data_range=1.0
    )
    assert isinstance(value, torch.Tensor)
    return value.reshape(-1)


@metric
class Ssim(PerPicture):
    """Decoded pictures against those of the full run."""

    name, group = "ssim", "fidelity"
    qualities = single("ssim", "SSIM", place=11, shown=ALWAYS, margin=False)

    def values(self, batch: BatchResult, entry: str) -> np.ndarray | None:
        return None if entry == FULL else ssim(batch.images[entry], batch.images[FULL]).numpy()
