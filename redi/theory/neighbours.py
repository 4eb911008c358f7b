"""Neighbours of a query: the nearest by key, and random ones as a control."""

from __future__ import annotations

import torch
from torch import Tensor

from redi.errors import UsageError
from redi.theory.fleet import norms

#: Rows of the KB that are compared with one query at a time.
_SEARCH_ROWS = 512


def nearest(queries: Tensor, entries: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` nearest entries of each query, nearest first: distances and rows (Q, count).

    Distances are computed directly in float64: the expanded form loses all digits for near keys.
    """
    if count > len(entries):
        raise UsageError(
            f"theory.neighbours={count} is more than the {len(entries)} entries of the KB: "
            "use fewer neighbours or more entries"
        )
    distances = torch.stack(
        [
            torch.cat(
                [norms(chunk.double() - query.double()) for chunk in entries.split(_SEARCH_ROWS)]
            )
            for query in queries
        ]
    )  # (Q, M)
    found = distances.topk(count, largest=False)
    return found.values.cpu(), found.indices.cpu()


def at_random(queries: int, entries: int, seed: int) -> Tensor:
    """One random KB row per query (Q, 1): the control for nearness."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(entries, (queries, 1), generator=generator)
