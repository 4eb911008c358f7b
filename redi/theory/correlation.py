"""Rank and linear correlation of a predictor with the actual error."""

from __future__ import annotations

import math

from scipy import stats
from torch import Tensor


def correlation(predictor: Tensor, error: Tensor) -> dict[str, float | None]:
    """Spearman's and Pearson's coefficients of two series (Q,); None where one is constant."""
    x, y = predictor.double().numpy(), error.double().numpy()
    if len(x) < 3 or x.min() == x.max() or y.min() == y.max():
        return {"spearman": None, "pearson": None}
    spearman, pearson = float(stats.spearmanr(x, y)[0]), float(stats.pearsonr(x, y)[0])
    return {
        "spearman": spearman if math.isfinite(spearman) else None,
        "pearson": pearson if math.isfinite(pearson) else None,
    }
