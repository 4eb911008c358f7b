"""PSNR to the query's own full run."""

from __future__ import annotations

import numpy as np

from redi.lazy import Tensor
from redi.metrics.base import ALWAYS, PerPicture, metric, single
from redi.metrics.batch import FULL, BatchResult
from redi.metrics.images import unit_range

_EQUAL = 100.0  # dB, what equal pictures count as


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB, float64 (B,); infinite where two pictures are equal."""
    a, b = unit_range(a, b)
    return -10 * (a - b).square().mean((1, 2, 3)).log10()


@metric
class Psnr(PerPicture):
    """Decoded pictures against those of the full run."""

    name, group = "psnr", "fidelity"
    qualities = single("psnr", "PSNR to full", place=10, unit="dB", shown=ALWAYS, headline=True)

    def values(self, batch: BatchResult, entry: str) -> np.ndarray | None:
        if entry == FULL:
            return None
        return psnr(batch.images[entry], batch.images[FULL]).clamp_max(_EQUAL).numpy()
