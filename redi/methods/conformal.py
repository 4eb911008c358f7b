"""Adaptive skip with a calibrated guarantee (redi/theory/PROOF.md, section 8).

A score `s(q, v)`, known at the key step, orders the candidates; the policy with threshold `theta`
walks through the value steps and stops before the first one whose score reaches `theta`. For a
query let `f` be the first value step with an error beyond the tolerance. The policy goes wrong
only if it reaches `f`, that is only if `theta` exceeds the query's *breaking point*

    t(q) = max { s(q, v) : v <= f }            (infinite if no step fails).

With n exchangeable calibration queries and `theta` their `r`-th smallest breaking point,
`r = floor(a (n + 1))`, a fresh query has `P(t < theta) <= r / (n + 1) <= a`, whatever the score.
One number per query is calibrated, so choosing among many value steps costs nothing extra.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from redi.lazy import Tensor, stats, torch
from redi.methods.land import Landing
from redi.retrieval import ExactSearch, Found, IndexedSearch


def breaking_points(scores: Tensor, errors: Tensor, tolerance: float) -> Tensor:
    """`t(q)` (Q,) from scores and errors (Q, V) over ascending value steps."""
    reached = scores.cummax(1).values
    failed = errors > tolerance
    first = failed.double().argmax(1, keepdim=True)
    return torch.where(failed.any(1), reached.gather(1, first)[:, 0], torch.inf)


def calibrate(points: Tensor, level: float) -> float:
    """The threshold at level `a` from the breaking points (n,) of the calibration queries.

    Too few queries for the level give minus infinity: never skip.
    """
    rank = math.floor(level * (len(points) + 1) + 1e-12)
    if rank < 1:
        return -math.inf
    return float(points.sort().values[rank - 1]) if rank <= len(points) else math.inf


def calibrated_distance(
    landing: Landing,
    search: ExactSearch | IndexedSearch,
    neighbours: int,
    tolerance: float,
    risk: float,
    most: int = 1024,
) -> float:
    """Key distance below which a jump may be made, calibrated on the KB's own trajectories.

    Each of them (a seeded sample where there are more than `most`) jumps along the others, its
    duplicates left out. Its score is the distance to its nearest key, its error is the relative
    error of the latents at the value step. A fresh query from the same distribution jumps and
    exceeds the tolerance with probability at most `risk`.
    """
    kb = landing.kb
    count = min(most, len(kb))
    chosen = np.sort(np.random.default_rng(0).permutation(len(kb))[:count])
    scores, errors = [], []
    for row in chosen.tolist():
        found = _others(landing, search, row, neighbours)
        if found is not None:
            scores.append(float(found.distances[0, 0]))
            errors.append(float(landing.left_out(torch.tensor([row]), found)[0]))
    if not scores:
        return -math.inf
    table = torch.tensor(scores, dtype=torch.float64)[:, None]
    failed = torch.tensor(errors, dtype=torch.float64)[:, None]
    return math.nextafter(calibrate(breaking_points(table, failed, tolerance), risk), -math.inf)


def _others(
    landing: Landing, search: ExactSearch | IndexedSearch, row: int, neighbours: int
) -> Found | None:
    """The nearest trajectories of one that are neither itself nor made as it was."""
    kb, part = landing.kb, int(landing.kb.partitions[row])
    members = search.members[part]
    twins = {
        other
        for other in members.tolist()
        if kb.prompts[other] == kb.prompts[row] and kb.noise_ids[other] == kb.noise_ids[row]
    }
    wanted = min(neighbours + len(twins), len(members))
    key = kb.latents(landing.key_step, torch.tensor([row]))
    found = search.search(key, [part], wanted)
    kept = [i for i, other in enumerate(found.rows[0].tolist()) if other not in twins]
    if len(kept) < neighbours:
        return None
    taken = kept[:neighbours]
    return Found(found.rows[:, taken], found.distances[:, taken])


def choose(scores: Tensor, threshold: float) -> Tensor:
    """Number of leading value steps (Q,) whose score stays below the threshold; 0 is no jump."""
    return (scores < threshold).long().cumprod(1).sum(1)


def failures(choices: Tensor, errors: Tensor, tolerance: float) -> Tensor:
    """Whether the error (Q, V) at the chosen value step exceeds the tolerance (Q,)."""
    taken = errors.gather(1, (choices - 1).clamp(min=0)[:, None])[:, 0]
    return (choices > 0) & (taken > tolerance)


def scale_scores(raw: Tensor, errors: Tensor, fit: Tensor) -> Tensor:
    """Scores (Q, V) in units of error: `raw` times the median of error / raw over `fit` queries.

    `fit` (Q,) masks queries that take no part in calibration or test, so the scores stay fixed
    functions and exchangeability is kept.
    """
    ratio = (errors[fit] / raw[fit].clamp(min=torch.finfo(torch.float64).tiny)).median(0).values
    return raw * ratio


@dataclass(frozen=True)
class SkipResult:
    """Adaptive skip at one level over repeated random splits."""

    level: float
    #: share of test queries beyond the tolerance, mean over the splits
    achieved: float
    #: exact 95% binomial interval of that share for one test half
    interval: tuple[float, float]
    #: splits whose test half alone rejects `P(error) <= level` at 5% (one-sided, exact); the
    #: guarantee is an average over calibration halves, so somewhat more than 5% are expected
    splits_rejecting: int
    #: mean calls that a query saves
    calls_saved: float
    #: the same for one value step for all, calibrated at the same level
    calls_saved_fixed: float
    #: the same for the largest value step whose failures on the test half stay within the level
    calls_saved_fixed_oracle: float


def evaluate_skip(
    scores: Tensor,
    fixed_scores: Tensor,
    errors: Tensor,
    savings: Tensor,
    tolerance: float,
    level: float,
    splits: int,
    seed: int,
) -> SkipResult:
    """Calibrate on one random half, test on the other, `splits` times.

    Args:
        scores: (Q, V) of the policy; fixed_scores: (Q, V), equal for all queries.
        errors: (Q, V) of the final result at each ascending value step.
        savings: network calls (V,) that a jump to each value step saves.
    """
    generator = torch.Generator().manual_seed(seed)
    count = len(errors)
    calls = torch.cat([torch.zeros(1, dtype=torch.float64), savings.double()])
    rates, rejecting, saved, fixed, oracle = [], 0, [], [], []
    for _ in range(splits):
        order = torch.randperm(count, generator=generator)
        fit, test = order[: count // 2], order[count // 2 :]

        def policy(table: Tensor, fit: Tensor = fit, test: Tensor = test) -> Tensor:
            points = breaking_points(table[fit], errors[fit], tolerance)
            return choose(table[test], calibrate(points, level))

        chosen = policy(scores)
        failed = failures(chosen, errors[test], tolerance)
        rates.append(float(failed.double().mean()))
        rejected = stats.binomtest(int(failed.sum()), len(test), level, alternative="greater")
        rejecting += int(rejected.pvalue < 0.05)
        saved.append(float(calls[chosen].mean()))
        fixed.append(float(calls[policy(fixed_scores)].mean()))
        within = (errors[test] > tolerance).double().mean(0) <= level
        oracle.append(float((savings.double() * within).max()))
    mean = sum(rates) / splits
    half = count - count // 2
    interval = stats.binomtest(round(mean * half), half).proportion_ci(method="exact")
    return SkipResult(
        level,
        mean,
        (float(interval.low), float(interval.high)),
        rejecting,
        sum(saved) / splits,
        sum(fixed) / splits,
        sum(oracle) / splits,
    )
