"""What `transport` and `delta` borrow from a neighbour, and bounds on how wrong it is (PROOF.md,
propositions 8 and 9).

`transport` borrows a displacement, `delta` a displacement less the straight line along the last
prediction before the key step. With `D_i = y_i - y'_i`, `c = 0` for `transport` and `c = e_{k-1} -
e'_{k-1}` for `delta`, the error that one neighbour makes is `|F_v - F_k|` with `F_i = D_i - rho_i
c`, and `F` obeys the sampler's own recursion with `c` taken off the noise predictions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from redi.theory.certificate import certificate, propagate, step_map_certificate
from redi.theory.pairs import PairRecord

#: the series of a record that holds `|F_{i+1} - F_i|`
STEPS = {"transport": "drift", "delta": "bend"}


def pair_bounds(record: PairRecord, estimator: str, form: str) -> Tensor:
    """Certified bounds (n + 1, P) on one neighbour's error, for `i = k .. v`.

    Form `lipschitz` uses secant constants, form `step_map` the measured steps of the pair.
    """
    if estimator == "paper":
        return certificate(record) if form == "lipschitz" else step_map_certificate(record)
    if form == "step_map":
        return path(getattr(record, STEPS[estimator]))
    return displacement(record, record.secant, record.mismatch, estimator, record.rounding)


def path(steps: Tensor) -> Tensor:
    """Length (n + 1, P) of a path from its steps (n, P)."""
    return torch.cat([torch.zeros_like(steps[:1]), steps.cumsum(0)])


def displacement(
    record: PairRecord,
    eta: Tensor,
    delta: Tensor,
    estimator: str,
    source: Tensor | None = None,
) -> Tensor:
    """Bounds (n + 1, P) on `|F_i - F_k|` from constants (n, P or 1) of the noise prediction.

    The smaller one of the path's length and of the triangle inequality `|F_i| + |F_k|`.
    """
    updates = record.updates
    bounds = propagate(updates, record.distance[0], record.history_gaps, eta, delta, source)
    shift = record.key_gap if estimator == "delta" else torch.zeros_like(record.key_gap)
    gaps, steps = list(record.history_gaps), []
    for i, update in enumerate(updates):
        here = bounds[i]
        gaps.insert(0, update.gap_bound(here, eta[i], delta[i]))
        noise = eta[i] * update.alpha * here + delta[i] + shift
        step = abs(update.weights[0]) * noise * (update.rho if update.data_form else 1.0)
        for j, weight in enumerate(update.weights[1:], start=1):
            if update.data_form:
                step = step + abs(weight) * (gaps[j] + here + update.rho * shift)
            elif j == i + 1 and estimator == "delta":
                continue  # the prediction that is taken off
            else:
                step = step + abs(weight) * (gaps[j] + shift)
        step = abs(update.gain) * step
        steps.append(step if source is None else step + source[i])
    fall = torch.tensor([[updates[0].rho - rho] for rho in record.rho], dtype=torch.float64)
    direct = bounds + record.distance[0] + fall * shift
    direct[0] = 0
    return torch.minimum(path(torch.stack(steps)), direct)
