"""Which samples jumped, where a distance or a tolerance lets some of them alone."""

from __future__ import annotations

import numpy as np

from redi.config import Config
from redi.metrics.base import PerPicture, metric, single
from redi.metrics.batch import BatchResult


@metric
class Jumped(PerPicture):
    """1 for a sample that jumped, 0 for one that full sampling went on for; the mean is a share."""

    name, group = "jumped", "fidelity"
    qualities = single("jumped", "share that jumped", place=51, ranked=False)

    @classmethod
    def applies(cls, config: Config) -> bool:
        chosen = config.retrieval
        return chosen.tolerance is not None or chosen.max_distance is not None

    def values(self, batch: BatchResult, entry: str) -> np.ndarray | None:
        hits = batch.outcomes[entry].hits
        return None if hits is None else hits.double().cpu().numpy()
