"""PickScore and HPS v2: how much people would prefer a picture for its prompt."""

from __future__ import annotations

import numpy as np

from redi.metrics.base import PerPicture, metric, single
from redi.metrics.batch import BatchResult
from redi.metrics.needs import ClipFeatures


class Preference(PerPicture):
    """The scaled cosine of picture and prompt by a CLIP trained on choices between pictures.

    Of two pictures for a prompt, the odds that people take the first are the exponential of the
    difference.
    """

    def values(self, batch: BatchResult, entry: str) -> np.ndarray:
        features: ClipFeatures = getattr(self, self.needs[0])
        return features.scorer.preference(features.of(batch, entry), batch.prompts)


@metric
class PickScore(Preference):
    """Choices of the users of a web page (Kirstain et al., NeurIPS 2023); about 20."""

    name, group, needs = "pick_score", "pick", ("pick",)
    qualities = single("pick_score", "PickScore", place=56, loss=0.1)


@metric
class HPSv2(Preference):
    """Choices of annotators (Wu et al., 2023), version 2 or 2.1 as the weights are; about 27.

    Its scale is 100, as in published tables. Published scores fit the longer side of a picture and
    pad it; here the preprocessor of the weights decides, which is the same for square pictures.
    """

    name, group, needs = "hps_v2", "hps", ("hps",)
    qualities = single("hps_v2", "HPS v2", place=56, loss=0.1)
