"""PickScore: how much people would prefer a picture for its prompt."""

from __future__ import annotations

import numpy as np

from redi.metrics.base import PerPicture, metric, single
from redi.metrics.batch import BatchResult
from redi.metrics.needs import PickFeatures


@metric
class PickScore(PerPicture):
    """A CLIP trained on people's choices between pictures (Kirstain et al., NeurIPS 2023).

    Its scaled cosine of picture and prompt, about 20: of two pictures for a prompt, the odds that
    people take the first are the exponential of the difference.
    """

    name, group, needs = "pick_score", "pick", ("pick",)
    qualities = single("pick_score", "PickScore", place=56, loss=0.1)
    pick: PickFeatures

    def values(self, batch: BatchResult, entry: str) -> np.ndarray:
        return self.pick.scorer.preference(self.pick.of(batch, entry), batch.prompts)
