"""CLIP score by the embedded domain's own judge."""

from __future__ import annotations

import numpy as np

from redi.metrics.base import ALWAYS, PerPicture, metric, single
from redi.metrics.batch import BatchResult
from redi.metrics.needs import EvaluatorFeatures


@metric
class ClipScore(PerPicture):
    """100 max(cosine, 0) of a picture with its prompt."""

    name, group, needs = "clip_score", "prompt", ("evaluator",)
    qualities = single("clip_score", "CLIP score", place=20, shown=ALWAYS, headline=True, loss=0.5)
    evaluator: EvaluatorFeatures

    def values(self, batch: BatchResult, entry: str) -> np.ndarray:
        features = self.evaluator.of(batch, entry)
        return self.evaluator.judge.score(features, batch.prompts).cpu().numpy()
