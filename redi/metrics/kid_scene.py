"""KID on the evaluator's features: unbiased in the number of pictures, unlike FD-scene."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import numpy as np

from redi.metrics.base import FILES, Quality, metric
from redi.metrics.frechet import mean_kernel, resampled_kernel_distance
from redi.metrics.sets import SetMetric


@metric
class KidScene(SetMetric):
    """Kernel distance to real scenes."""

    name = "kid_scene"
    qualities = (Quality("kid_scene", "KID-scene", higher_is_better=False, shown=FILES),)

    @cached_property
    def among_real(self) -> float:
        return mean_kernel(self.evaluator.real)

    def scorer(self, features: np.ndarray) -> Callable[[np.ndarray], float]:
        return resampled_kernel_distance(features, self.evaluator.real, self.among_real)
