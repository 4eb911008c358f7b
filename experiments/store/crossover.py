"""Where principal components overtake a flat scan in memory: what `auto` is based on."""

from __future__ import annotations

import numpy as np
import torch
from disk import BATCH, NEIGHBOURS
from synthetic import keys
from timing import in_turns

from redi.retrieval import ExactSearch, IndexedSearch
from redi.retrieval.finders import Components, project
from redi.retrieval.keys import ArrayKeys

POINTS = ((16384, (64, 128, 256, 512)), (1024, (1000, 2000, 4000, 8000)))  # width: keys


def crossover() -> list[dict[str, float]]:
    """Milliseconds per query of both kinds, one query and 16 at once, for two widths of keys."""
    found = []
    for width, sizes in POINTS:
        for size in sizes:
            rows = torch.from_numpy(keys(0, size)).flatten(1)[:, :width].contiguous()
            asked = torch.from_numpy(keys(0, BATCH, seed=1)).flatten(1)[:, :width].contiguous()
            partitions, stored = np.zeros(size, int), ArrayKeys(rows.half().numpy())
            components = Components(*project(stored, np.arange(size)))
            found.append(
                {"width": width, "keys": size}
                | _times(
                    ExactSearch(rows, partitions),
                    IndexedSearch(stored, partitions, {0: components}),
                    asked,
                )
            )
    return found


def _times(flat: ExactSearch, pca: IndexedSearch, asked: torch.Tensor) -> dict[str, float]:
    one = in_turns(
        31,
        lambda: flat.search(asked[:1], [0], NEIGHBOURS),
        lambda: pca.search(asked[:1], [0], NEIGHBOURS),
    )
    many = in_turns(
        7,
        lambda: flat.search(asked, [0] * BATCH, NEIGHBOURS),
        lambda: pca.search(asked, [0] * BATCH, NEIGHBOURS),
    )
    milliseconds = [1e3 * one[0], 1e3 * one[1], 1e3 * many[0] / BATCH, 1e3 * many[1] / BATCH]
    return dict(zip(("flat", "pca", "flat in 16", "pca in 16"), milliseconds, strict=True))
