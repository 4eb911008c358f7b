"""Prompt fidelity: does a picture show what its prompt asked for, attribute by attribute."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from redi.embedded.scenes import ATTRIBUTES, Scene
from redi.metrics.evaluator import Evaluator


def attribute_hits(
    images: Tensor, scenes: Sequence[Scene], evaluator: Evaluator
) -> dict[str, np.ndarray]:
    """Per attribute, float64 (B,): 1 where the evaluator sees the intended value, else 0.

    The column `all` is 1 where every attribute is right, as in GenEval (Ghosh et al., 2023).
    `images` is (B, 3, 64, 64) in [-1, 1]; `scenes` are the compositions asked for.
    """
    if len(images) != len(scenes):
        raise ValueError(
            f"scenes has {len(scenes)} entries for {len(images)} images; give one for each"
        )
    seen = evaluator.predict(images)
    wanted = {name: [getattr(scene, name) for scene in scenes] for name in ATTRIBUTES}
    hits = {
        name: (np.array(seen[name]) == np.array(wanted[name])).astype(np.float64)
        for name in ATTRIBUTES
    }
    return hits | {"all": np.prod(list(hits.values()), axis=0)}
