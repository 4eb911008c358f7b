"""What a judgement is: a claim in one setting, a number with its interval, and a verdict."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from redi.metrics.base import Quality
from redi.metrics.intervals import percentiles
from redi.report.compare import compare
from redi.report.points import Point
from redi.report.runs import Run

CONFIRMED, REFUTED, PARTLY, UNDECIDED = "confirmed", "refuted", "partly", "undecided"
PUBLISHED, BEST = "as published", "at its best"
_DRAWS = 2000


@dataclass(frozen=True)
class Claim:
    """One claim, judged by one metric in one setting; `value` has a 95% interval."""

    claim: str
    setting: str
    verdict: str
    metric: str
    value: float
    low: float
    high: float
    kb_size: int
    pictures: int
    experiment: str


def judged(low: float, high: float, bound: float = 0.0) -> str:
    """Whether an interval of a gain lies above a bound, below it, or on both sides."""
    return CONFIRMED if low >= bound else REFUTED if high < bound else UNDECIDED


def together(verdicts: Sequence[str]) -> str:
    """The verdict of a claim that several metrics or settings have to bear out."""
    found = set(verdicts)
    if len(found) == 1:
        return found.pop()
    return PARTLY if CONFIRMED in found else REFUTED if REFUTED in found else UNDECIDED


def variant(run: Run) -> str:
    """Which ReDi a run is about."""
    chosen = run.config["retrieval"]
    estimator, count = chosen["estimator"], chosen["neighbours"]
    if (estimator, count) == ("paper", 1):
        return PUBLISHED
    if (estimator, chosen["weights"]) == ("transport", "kernel") and count >= 64:
        return BEST
    return f"{estimator}, {count} neighbour" + "s" * (count > 1)


def size(run: Run) -> int:
    """Trajectories of a run's KB."""
    return run.config["kb"]["size"]


def only(run: Run, method: str) -> Point:
    """The point of a method that a claim needs."""
    found = run.first(method)
    if found is None:
        raise SystemExit(f"{run.folder} has no point of {method!r}: run its experiment again")
    return found


def row(
    claim: str, setting: str, verdict: str, metric: str, numbers: Sequence[float], run: Run
) -> Claim:
    point = only(run, "redi")
    value, low, high = map(float, numbers)
    kb, count = point.kb_size or 0, point.count
    return Claim(claim, setting, verdict, metric, value, low, high, kb, count, point.experiment)


def gain(
    run: Run, ours: Point, theirs: Point, quality: Quality
) -> tuple[float, float, float, float] | None:
    """Mean gain of ours over theirs, its interval, and the loss that counts as none."""
    found = compare(run, ours, theirs, quality)
    if found is None:
        return None
    mean, _, draws = found.gain
    return mean, *percentiles(draws), found.allowed or 0.0


def errors(run: Run, method: str = "redi", column: str = "latent_error") -> np.ndarray:
    """A column of a method by prompt (P,)."""
    found = run.pictures.by_prompt(only(run, method).entry, column)
    if found is None:
        raise SystemExit(f"{run.folder} lacks {column} of {method!r}: run its experiment again")
    return found


def resampled(statistic: Callable[[np.ndarray], float], count: int) -> tuple[float, float, float]:
    """A statistic of rows and its 95% interval over resampled prompts."""
    rng = np.random.default_rng(0)
    draws = [statistic(rng.integers(count, size=count)) for _ in range(_DRAWS)]
    return statistic(np.arange(count)), *percentiles(np.array(draws))


def ratio(ours: np.ndarray, theirs: np.ndarray) -> tuple[float, float, float]:
    """Ratio of mean errors, paired over prompts."""
    return resampled(lambda rows: float(ours[rows].mean() / theirs[rows].mean()), len(ours))


def less(numbers: tuple[float, float, float]) -> str:
    """Verdict of "has the smaller error" from a ratio of errors."""
    return judged(-numbers[2], -numbers[1], -1.0)
