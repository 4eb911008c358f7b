"""Plain sentences computed from the numbers: is ReDi worth its calls?"""

from __future__ import annotations

from collections.abc import Sequence

from redi.metrics.catalogue import qualities
from redi.report.compare import BETTER, SAME, WORSE, compare, full_beside, same_calls
from redi.report.labels import calls
from redi.report.points import Point
from redi.report.runs import Run

_UNKNOWN = "unknown"
_WORDS = {
    BETTER: "it is better",
    WORSE: "it is worse",
    SAME: "it shows no difference within the interval",
    _UNKNOWN: "it cannot be judged, for want of paired values,",
}


def verdicts(run: Run) -> list[str]:
    """One sentence for each ReDi point of a run."""
    return [_sentence(point, run) for point in run.points if point.method == "redi"]


def _sentence(point: Point, run: Run) -> str:
    setting = [point.sampler]
    setting += [f"k = {point.key_step}"] if point.key_step is not None else []
    setting += [f"v = {point.value_step}"] if point.value_step is not None else []
    opening = f"{point.title} ({', '.join(setting)}) takes {calls(point.calls)} calls"
    full = full_beside(point, run)
    if full is not None and full.calls > 0:
        saved = 100 * (1 - point.calls / full.calls)
        opening += f" where full sampling takes {calls(full.calls)} ({saved:.0f}% saved)"
    plain = same_calls(point, run)
    if plain is None:
        return f"{opening}; no run of the same sampler with as many calls stands beside it."
    found = _findings(point, plain, run)
    if not found:
        return f"{opening}; nothing was measured on both it and the same sampler."
    clauses = [f"{_WORDS[o]} in {_listed(found[o])}" for o in _WORDS if o in found]
    return f"{opening}; against the same sampler at {calls(plain.calls)} calls {_listed(clauses)}."


def _findings(point: Point, plain: Point, run: Run) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for quality in qualities().values():
        ours, theirs = point.values.get(quality.name), plain.values.get(quality.name)
        if not quality.headline or ours is None or theirs is None:
            continue
        unit = f" {quality.unit}" if quality.unit else ""
        difference = compare(run, point, plain, quality)
        outcome = _UNKNOWN if difference is None else difference.outcome
        shown = "" if difference is None else f", paired difference {difference}"
        text = f"{quality.title} ({ours} against {theirs}{unit}{shown})"
        found.setdefault(outcome, []).append(text)
    return found


def _listed(items: Sequence[str]) -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"
