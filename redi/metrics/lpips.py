"""LPIPS to the query's own full run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from redi.metrics.base import PerPicture, metric, single
from redi.metrics.batch import FULL, BatchResult


@metric
class Lpips(PerPicture):
    """Decoded pictures against those of the full run."""

    name, needs = "lpips", ("lpips",)
    qualities = single("lpips", "LPIPS to full", place=54, higher_is_better=False)
    lpips: Callable[..., Any]

    def values(self, batch: BatchResult, entry: str) -> np.ndarray | None:
        if entry == FULL:
            return None
        found = self.lpips(batch.images[entry], batch.images[FULL])
        return found.double().flatten().numpy()
