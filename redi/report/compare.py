"""The one rule by which two points of a run are compared: paired, over the same prompts.

Prompts are resampled, the noises of a prompt together, and both points with the same draws, so what
is hard about a prompt cancels (Efron, 1979). A score of a whole set brings its own resampled
values, which are paired in the same way.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from redi.metrics.base import Quality
from redi.metrics.intervals import percentiles, resampled_means
from redi.report.points import Point, Value
from redi.report.runs import Run

RESAMPLES = 1000
BETTER, WORSE, SAME = "better", "worse", "no difference within the interval"


@dataclass(frozen=True)
class Difference:
    """One point's quality less another's, with its 95% interval over prompts."""

    quality: Quality
    mean: float
    low: float
    high: float
    draws: np.ndarray  # (B,) resampled differences
    #: the loss that counts as none, in the unit of the quality; None: no such margin is stated
    allowed: float | None

    @property
    def outcome(self) -> str:
        """BETTER or WORSE where the interval excludes zero."""
        if self.low <= 0 <= self.high:
            return SAME
        return BETTER if (self.low > 0) == self.quality.higher_is_better else WORSE

    @property
    def gain(self) -> tuple[float, float, np.ndarray]:
        """Mean, lower end and draws of the difference, positive where it is an improvement."""
        if self.quality.higher_is_better:
            return self.mean, self.low, self.draws
        return -self.mean, -self.high, -self.draws

    @property
    def equal(self) -> bool:
        """Non-inferior: the whole interval of the loss stays within what is allowed."""
        return self.allowed is not None and self.gain[1] >= -self.allowed

    def __str__(self) -> str:
        return str(Value(self.mean, self.low, self.high))


def compare(run: Run, ours: Point, theirs: Point, quality: Quality) -> Difference | None:
    """Our quality less theirs; None where it was not measured on the same prompts of both."""
    mine, other = ours.values.get(quality.name), theirs.values.get(quality.name)
    if mine is None or other is None or not run.pictures:
        return None
    if quality.column is not None:
        pair = [run.pictures.by_prompt(p.entry, quality.column) for p in (ours, theirs)]
    else:
        pair = [run.pictures.draws(p.entry, quality.name) for p in (ours, theirs)]
    if pair[0] is None or pair[1] is None or len(pair[0]) != len(pair[1]) or len(pair[0]) < 2:
        return None
    gap = pair[0] - pair[1]
    if quality.column is not None:
        draws, mean = resampled_means(gap, resamples=RESAMPLES), float(gap.mean())
    else:
        draws, mean = gap, mine.mean - other.mean
    low, high = percentiles(draws)
    scale = abs(other.mean) if quality.relative_loss else 1.0
    allowed = None if quality.loss is None else quality.loss * scale
    return Difference(quality, mean, low, high, draws, allowed)


def same_calls(point: Point, run: Run, within: float = 1.0) -> Point | None:
    """The plain point of the same sampler with as many calls.

    PNDM takes one call more than steps and an adaptive skip has a fractional mean, hence `within`.
    """
    near = [
        p
        for p in run.points
        if (p.method, p.sampler) == ("plain", point.sampler)
        and abs(p.calls - point.calls) <= within
    ]
    return min(near, key=lambda p: abs(p.calls - point.calls), default=None)


def full_beside(point: Point, run: Run) -> Point | None:
    """The full run of the same sampler."""
    beside = (p for p in run.points if (p.method, p.sampler) == ("full", point.sampler))
    return next(beside, None)
