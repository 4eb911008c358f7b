"""KID on the evaluator's features: unbiased in the number of pictures, unlike FD-scene."""

from __future__ import annotations

import numpy as np

from redi.metrics.base import FILES, Quality, metric
from redi.metrics.frechet import kernel_distance
from redi.metrics.sets import SetMetric


@metric
class KidScene(SetMetric):
    """Kernel distance to real scenes."""

    name = "kid_scene"
    qualities = (Quality("kid_scene", "KID-scene", higher_is_better=False, shown=FILES),)

    def statistic(self, features: np.ndarray) -> float:
        return kernel_distance(features, self.evaluator.real)
