"""CLIP score with OpenAI's CLIP."""

from __future__ import annotations

import numpy as np

from redi.metrics.base import PerPicture, metric, single
from redi.metrics.batch import BatchResult
from redi.metrics.needs import ClipFeatures


@metric
class OpenAIClipScore(PerPicture):
    """100 max(cosine, 0) of a picture with its prompt; long prompts as `metrics.long_prompts`."""

    name, group, needs = "openai_clip_score", "clip", ("clip",)
    qualities = single("openai_clip_score", "CLIP score (OpenAI)", place=55, loss=0.5)
    clip: ClipFeatures

    def values(self, batch: BatchResult, entry: str) -> np.ndarray:
        return self.clip.scorer.score(self.clip.of(batch, entry), batch.prompts)
