"""Plain sentences computed from the numbers: is ReDi worth its calls?

Two values differ where the interval of their paired difference excludes zero, or, without one,
where their own intervals do not overlap. The latter is stricter, so "better" and "worse" are safe
to say either way, and "no difference" means not shown.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from redi.report.labels import CLIP_SCORE, FD_SCENE, OBJECT_FIDELITY, PSNR, Metric, calls
from redi.report.results import Point, Results, Value

BETTER, WORSE, SAME = "better", "worse", "no difference within the interval"
UNKNOWN = "no interval"

_JUDGED = (PSNR, FD_SCENE, CLIP_SCORE, OBJECT_FIDELITY)
_PAIRED = {"psnr": "psnr_over_plain"}  # ReDi less the same sampler, picture by picture
_SAME_CALLS = 1.0  # PNDM takes one call more than steps; an adaptive skip has a fractional mean


def compare(ours: Value, theirs: Value, higher_is_better: bool) -> str:
    """BETTER or WORSE where the intervals are apart, SAME where they meet, UNKNOWN without both."""
    if ours.low is None or ours.high is None or theirs.low is None or theirs.high is None:
        return UNKNOWN
    if ours.low <= theirs.high and theirs.low <= ours.high:
        return SAME
    return BETTER if (ours.low > theirs.high) == higher_is_better else WORSE


def verdicts(results: Results) -> list[str]:
    """One sentence for each ReDi point of a run."""
    return [_sentence(point, results.points) for point in results.points if point.method == "redi"]


def calls_at_full_quality(points: Iterable[Point], method: str, metric: Metric) -> float | None:
    """The fewest calls at which a method is not shown to be worse than the full run beside it.

    Each point is held against the full run of its own run and sampler; None where no point
    qualifies or nothing can be compared.
    """
    points = list(points)
    enough = []
    for point in points:
        full = _full(point, points)
        if point.method != method or full is None:
            continue
        ours, theirs = point.values.get(metric.key), full.values.get(metric.key)
        if ours and theirs and compare(ours, theirs, metric.higher_is_better) in (BETTER, SAME):
            enough.append(point.nfe)
    return min(enough, default=None)


def _sentence(point: Point, points: Sequence[Point]) -> str:
    setting = [point.sampler]
    setting += [f"k = {point.key_step}"] if point.key_step is not None else []
    setting += [f"v = {point.value_step}"] if point.value_step is not None else []
    opening = f"ReDi ({', '.join(setting)}) takes {calls(point.nfe)} calls"
    full = _full(point, points)
    if full is not None and full.nfe > 0:
        saved = 100 * (1 - point.nfe / full.nfe)
        opening += f" where full sampling takes {calls(full.nfe)} ({saved:.0f}% saved)"
    plain = _same_calls(point, points)
    if plain is None:
        return f"{opening}; no run of the same sampler with as many calls stands beside it."
    found = _findings(point, plain)
    if not found:
        return f"{opening}; nothing was measured on both it and the same sampler."
    clauses = [
        f"{words} in {_listed(found[outcome])}"
        for outcome, words in (
            (BETTER, "it is better"),
            (WORSE, "it is worse"),
            (SAME, "it shows no difference within the interval"),
            (UNKNOWN, "it cannot be judged, for want of an interval,"),
        )
        if outcome in found
    ]
    return f"{opening}; against the same sampler at {calls(plain.nfe)} calls {_listed(clauses)}."


def _findings(point: Point, plain: Point) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for metric in _JUDGED:
        ours, theirs = point.values.get(metric.key), plain.values.get(metric.key)
        if ours and theirs:
            unit = f" {metric.unit}" if metric.unit else ""
            outcome, shown = compare(ours, theirs, metric.higher_is_better), ""
            paired = point.values.get(_PAIRED.get(metric.key, ""))
            if paired and paired.margin is not None:
                outcome = compare(paired, Value(0, 0, 0), metric.higher_is_better)
                shown = f", paired difference {paired}"
            found.setdefault(outcome, []).append(
                f"{metric.title} ({ours} against {theirs}{unit}{shown})"
            )
    return found


def _full(point: Point, points: Sequence[Point]) -> Point | None:
    beside = (p for p in points if (p.run, p.sampler) == (point.run, point.sampler))
    return next((p for p in beside if p.method == "full"), None)


def _same_calls(point: Point, points: Sequence[Point]) -> Point | None:
    near = [
        p
        for p in points
        if p.method == "plain"
        and (p.run, p.sampler) == (point.run, point.sampler)
        and abs(p.nfe - point.nfe) <= _SAME_CALLS
    ]
    return min(near, key=lambda p: abs(p.nfe - point.nfe), default=None)


def _listed(items: Sequence[str]) -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"
