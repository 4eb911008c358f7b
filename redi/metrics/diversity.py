"""How much the pictures of one prompt differ from noise to noise."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike


def pairwise_distance(features: ArrayLike) -> np.ndarray:
    """Mean Euclidean distance of a prompt's pictures from each other, float64 (P,).

    `features` is (P, R, D): P prompts, R >= 2 pictures of each, D features. Equal pictures give 0;
    unit-length features give at most 2.
    """
    rows = np.asarray(features, np.float64)
    if rows.ndim != 3 or rows.shape[1] < 2:
        raise ValueError(
            f"features have shape {rows.shape}; give (prompts, pictures of each, dimensions) "
            "with at least 2 pictures of each prompt"
        )
    first, second = np.triu_indices(rows.shape[1], 1)
    gaps = rows[:, first] - rows[:, second]  # (P, pairs, D)
    return np.sqrt(np.square(gaps).sum(-1)).mean(1)
