"""The certificate: recursion (2) along recorded pairs, and the checks that it can fail.

Three statements are checked per pair and step (PROOF.md, sections 2 to 4):

1. identity: the difference of the two states moves by exactly the multistep combination of the
   recorded predictions. This tests the coefficients and the bookkeeping of indices.
2. split: `||e - e'|| <= eta alpha Delta + delta`, and the query's own prediction, evaluated the way
   the secants are, is the recorded one. This tests that secants and mismatches belong to the
   right state, timestep and prompt.
3. bound: `Delta_i <= B_i` for every `i` from the key step on, `B` from recursion (2) and from its
   sharper step-map form.

1 and 2 imply 3 in exact arithmetic. Rounding of the sampler's own float32 arithmetic is carried
along as one more source term, so that near-identical pairs are not miscounted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from redi.samplers import Sampler
from redi.theory.multistep import Update
from redi.theory.pairs import PairRecord

#: Relative tolerance of every check.
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Verdict:
    """Which pairs break which statement; masks and ratios of shape (pairs,)."""

    identity: Tensor
    split: Tensor
    bound: Tensor
    ratio: Tensor

    @property
    def violated(self) -> Tensor:
        """Pairs that break at least one statement."""
        return self.identity | self.split | self.bound


def propagate(
    updates: Sequence[Update],
    start: Tensor,
    history_gaps: Sequence[Tensor],
    eta: Tensor,
    delta: Tensor,
    source: Tensor | None = None,
) -> Tensor:
    """Run recursion (2) over consecutive updates: bounds (n + 1, ...) on the state distance.

    Args:
        updates: n consecutive updates, of the noise or the data form.
        start: distance (...) of the states before the first of them.
        history_gaps: differences (...) of the predictions made before, newest first; known,
            because both runs have made them. Missing ones count as zero.
        eta: Lipschitz or secant constants of the noise prediction (n, ...).
        delta: prompt mismatches (n, ...).
        source: further errors (n, ...) that enter with each update, in units of `y`.
    """
    bounds, gaps = [start], list(history_gaps)
    for step, update in enumerate(updates):
        gaps.insert(0, update.gap_bound(bounds[-1], eta[step], delta[step]))
        combined = sum(abs(b) * gap for b, gap in zip(update.weights, gaps, strict=False))
        following = update.carry * bounds[-1] + abs(update.gain) * combined
        bounds.append(following if source is None else following + source[step])
    return torch.stack(bounds)


def certificate(record: PairRecord) -> Tensor:
    """Bounds `B_i` (n + 1, pairs) for `i = k .. v` from the pairs' own secant constants."""
    return propagate(
        record.updates,
        record.distance[0],
        record.history_gaps,
        record.secant,
        record.mismatch,
        record.rounding,
    )


def step_map_certificate(record: PairRecord) -> Tensor:
    """Bounds (n + 1, pairs) from the step maps' own secant constants (PROOF.md, proposition 5).

    `Delta_{i+1} <= growth_i Delta_i + |h_i b_i0| delta_i`: only the prompt mismatch is split off by
    the triangle inequality, so contraction of the sampler is not lost as it is in (2).
    """
    return propagate_growth(
        record.distance[0], record.growth, mismatch_sources(record.updates, record.mismatch)
    )


def mismatch_sources(updates: Sequence[Update], mismatch: Tensor) -> Tensor:
    """`|h_i b_i0| delta_i` (n, ...) from mismatches (n, ...)."""
    gains = torch.tensor([abs(update.noise_gain) for update in updates], dtype=torch.float64)
    return gains.reshape(-1, *[1] * (mismatch.dim() - 1)) * mismatch


def propagate_growth(start: Tensor, growth: Tensor, source: Tensor) -> Tensor:
    """`B_{i+1} = growth_i B_i + source_i`: bounds (n + 1, ...) from start (...)."""
    bounds = [start]
    for factor, added in zip(growth, source, strict=True):
        bounds.append(factor * bounds[-1] + added)
    return torch.stack(bounds)


def check(record: PairRecord, tolerance: float = TOLERANCE) -> Verdict:
    """Check the three statements on every pair."""
    bounds = certificate(record)
    allowed = (1 + tolerance) * bounds
    split = record.secant * record.alpha * record.distance[:-1] + record.mismatch
    tiny = torch.finfo(torch.float32).tiny
    return Verdict(
        identity=(record.residual > tolerance * record.move + record.rounding).any(0),
        split=(
            (record.noise_gap > (1 + tolerance) * split) | (record.unreproduced > tolerance * split)
        ).any(0),
        bound=(
            (record.distance > allowed)
            | (record.distance > (1 + tolerance) * step_map_certificate(record))
        ).any(0),
        ratio=(record.distance[1:] / bounds[1:].clamp(min=tiny)).amax(0),
    )


def perturbations(updates: Sequence[Update], index: int, factor: float) -> dict[str, Update]:
    """The update at `index` with one coefficient at a time multiplied by `factor`."""
    (update,) = [update for update in updates if update.index == index]
    changed = {"gain": replace(update, gain=update.gain * factor)}
    for j in range(len(update.weights)):
        weights = list(update.weights)
        weights[j] *= factor
        changed[f"b{j}"] = replace(update, weights=tuple(weights))
    return changed


def known_constant(record: PairRecord, eta: Tensor) -> Tensor:
    """Bounds (n + 1, pairs) with known Lipschitz constants `eta` (n, pairs) for the secants."""
    return propagate(
        record.updates,
        record.distance[0],
        record.history_gaps,
        eta,
        record.mismatch,
        record.rounding,
    )


def gronwall(record: PairRecord, sampler: Sampler, eta: Tensor) -> Tensor:
    """Closed form (3) for the discrete sampler: bounds (n + 1, pairs), PROOF.md proposition 4.

    With one constant `eta` (pairs,) for all steps and `W_i = sum_j |b_ij|`,

        Delta_i <= G(k, i) Delta_k + sum_l s_l G(l + 1, i)

    where `s_l` collects mismatches and earlier predictions. In the noise form
    `G(l, i) = exp(W eta (asinh rho_l - asinh rho_i))`; for DDIM, `W = 1`, this is inequality (3),
    which Euler's method therefore obeys as well as the differential equation. In the data form
    `G` is the product of `kappa_i + (1 - kappa_i) W_i (1 + eta sigma)`.
    """
    asinh = torch.asinh(sampler.levels.rho)
    weight = max(update.weight_norm for update in record.updates)
    first = record.updates[0].index
    bounds = [record.distance[0]]
    for step, update in enumerate(record.updates):
        reach = range(len(update.weights))
        source = record.rounding[step].clone()
        for j in reach:
            if j > step:
                gap = record.history_gaps[j - step - 1]
            else:
                gap = record.mismatch[step - j]
                gap = record.updates[step - j].rho * gap if update.data_form else gap
            source += abs(update.gain * update.weights[j]) * gap
        if update.data_form:
            sigma = max(float(sampler.levels.sigma[max(update.index - j, first)]) for j in reach)
            growth = update.carry + update.gain * update.weight_norm * (1 + eta * sigma)
        else:
            growth = torch.exp(weight * eta * (asinh[update.index] - asinh[update.index + 1]))
        bounds.append(growth * bounds[-1] + source)
    return torch.stack(bounds)
