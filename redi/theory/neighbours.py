"""Neighbours of a query and the weights that combine them (PROOF.md, section 6)."""

from __future__ import annotations

import torch
from torch import Tensor

from redi.errors import UsageError
from redi.theory.fleet import norms

WEIGHTS = ("least_squares", "affine")
#: Rows of the KB that are compared with one query at a time.
_SEARCH_ROWS = 512
#: Share of the mean squared distance that regularises affine weights.
_RIDGE = 1e-2


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


def fit_weights(query: Tensor, keys: Tensor, kind: str) -> Tensor:
    """Weights (H,) with which the keys (H, ...) reproduce the query key (...), float64.

    `least_squares` is the paper's choice, the minimum-norm solution without a constraint;
    `affine` keeps `sum w = 1` and is regularised, so that the last term of (4) vanishes.
    """
    if kind not in WEIGHTS:
        raise UsageError(f"theory.weights={kind!r} is unknown: use one of {', '.join(WEIGHTS)}")
    rows = keys.double().flatten(1).cpu()  # (H, D)
    target = query.double().flatten().cpu()  # (D,)
    if kind == "least_squares":
        return torch.linalg.lstsq(rows.T, target[:, None], driver="gelsd").solution[:, 0]
    offsets = rows - target
    gram = offsets @ offsets.T
    scale = gram.trace() / len(gram)
    ridge = _RIDGE * scale if scale > 0 else 1.0
    ones = torch.ones(len(gram), dtype=torch.float64)
    solved = torch.linalg.solve(gram + ridge * torch.eye(len(gram), dtype=torch.float64), ones)
    return solved / solved.sum()


def combine(weights: Tensor, values: Tensor, rows: Tensor) -> Tensor:
    """`sum_h w_qh value_h` (Q, ...) for weights and rows (Q, H) of values (M, ...), float64."""
    return torch.stack(
        [
            torch.einsum("h,h...->...", w.to(values.device), values[r].double())
            for w, r in zip(weights, rows, strict=True)
        ]
    )
