"""Judges: each reads the runs of an experiment and judges one claim, or a few that are close."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from scipy import stats

from experiments.judgement import (
    CONFIRMED,
    PUBLISHED,
    UNDECIDED,
    Claim,
    errors,
    gain,
    judged,
    less,
    only,
    ratio,
    resampled,
    row,
    size,
    variant,
)
from redi.embedded.scenes import ATTRIBUTES
from redi.metrics.catalogue import qualities
from redi.report.budgets import called
from redi.report.claim import claims as shares
from redi.report.compare import same_calls
from redi.report.points import Point
from redi.report.runs import Run

BEATS = "better than the same sampler with as many calls"
BEATS_ALL = "better than the best other sampler with as many calls"
OTHERS = "another sampler keeps full sampling's quality at half of its calls"
EQUAL = "full sampling's quality at half of its calls"
MORE = "more trajectories lower the error"
NOISES = "trajectories spread over several noises serve as well"
BETTER_ESTIMATE = "another estimate errs less than the published one with one neighbour"
_JUDGED = ("clip_score", "prompt_fidelity.all", "fd_scene")


def no_loss(
    claim: str, setting: str, run: Run, names: Sequence[str], point: Point | None = None
) -> Iterator[Claim]:
    """Whether ReDi, or another point, is not inferior to full sampling, by each metric there is."""
    for quality in map(qualities().__getitem__, names):
        found = gain(run, point or only(run, "redi"), only(run, "full"), quality)
        if found is not None:
            verdict = judged(found[1], found[2], -found[3])
            yield row(claim, setting, verdict, quality.title, found[:3], run)


def twice_as_fast(runs: Sequence[Run]) -> Iterator[Claim]:
    """Equal quality at half of the calls, and against the same sampler with as many."""
    for run in runs:
        redi, full = only(run, "redi"), only(run, "full")
        if not 0.45 <= redi.calls / full.calls <= 0.55:
            continue
        scale = run.config["sampling"]["guidance_scale"]
        setting = (
            f"{full.sampler}, guidance {scale:g}, {size(run):,} trajectories{key_step(run)}, "
            f"{variant(run)}"
        )
        known = qualities()
        yield from no_loss(EQUAL, setting, run, _JUDGED)
        plain = same_calls(redi, run)
        for name in ("clip_score", "prompt_fidelity.all", "fd_scene", "latent_error"):
            found = None if plain is None else gain(run, redi, plain, known[name])
            if found is not None:
                yield row(BEATS, setting, judged(*found[1:3]), known[name].title, found[:3], run)


def key_step(run: Run) -> str:
    """The key step in a setting, where the experiment has several."""
    several = run.config["kb"].get("key_steps")
    return f", key step {only(run, 'redi').key_step}" if several else ""


def best_rival(runs: Sequence[Run]) -> Iterator[Claim]:
    """Against every other sampler with as many calls, plain or fitted to the same trajectories.

    For each metric the rival is the one that is best by it on the very queries, in its favour.
    """
    for run in runs:
        redi, full = only(run, "redi"), only(run, "full")
        rivals = [p for p in run.points if p.entry == "plain" or _is_rival(p, redi.calls)]
        for name in (*_JUDGED, "latent_error"):
            quality = qualities()[name]
            found = [(r, gain(run, redi, r, quality)) for r in rivals]
            told = [(r, numbers) for r, numbers in found if numbers is not None]
            if told:
                rival, numbers = min(told, key=lambda pair: pair[1][0])
                setting = (
                    f"{full.sampler}, {redi.calls:g} calls, {size(run):,} trajectories"
                    f"{key_step(run)}, {variant(run)}"
                )
                metric = f"{quality.title} (against {_called(rival)})"
                yield row(BEATS_ALL, setting, judged(*numbers[1:3]), metric, numbers[:3], run)


def others_keep(runs: Sequence[Run]) -> Iterator[Claim]:
    """Who else keeps full sampling's quality at half of its calls, plain or fitted."""
    for run in runs:
        redi, full = only(run, "redi"), only(run, "full")
        for point in run.points:
            if _is_rival(point, redi.calls) and 0.45 <= point.calls / full.calls <= 0.55:
                spent = f"{point.calls:g} of {full.calls:g} calls, {size(run):,} trajectories"
                setting = f"{full.sampler}, {spent}, {_called(point)}"
                yield from no_loss(OTHERS, setting, run, _JUDGED, point)


def _is_rival(point: Point, calls: float) -> bool:
    named = point.entry.startswith(("plain@", "corrected@", "methods."))
    return named and abs(point.calls - calls) <= 1


def _called(point: Point) -> str:
    return point.sampler if point.method == "plain" else called(point)


def smallest_share(runs: Sequence[Run]) -> Iterator[Claim]:
    """The fewest calls, of those that were measured, at which a method is not inferior."""
    for which, kb in dict.fromkeys((variant(run), size(run)) for run in runs):
        mine = [run for run in runs if (variant(run), size(run)) == (which, kb)]
        for found in shares(mine):
            if found.method == "redi" or which == PUBLISHED:
                told = which if found.method == "redi" else found.title
                setting = f"{found.sampler}, {kb:,} trajectories, {told}"
                yield row(
                    "full quality at half of the calls or fewer",
                    setting,
                    CONFIRMED if found.holds else UNDECIDED,
                    f"share of the calls for {found.quality.title}",
                    (found.share, found.low, found.high),
                    mine[0],
                )


def more_trajectories(runs: Sequence[Run]) -> Iterator[Claim]:
    """Whether errors fall with the KB, and how fast; over the prompts that all sizes share.

    A larger run has the prompts of a smaller one first.
    """
    for which, calls in dict.fromkeys((variant(run), only(run, "redi").calls) for run in runs):
        mine = [r for r in runs if (variant(r), only(r, "redi").calls) == (which, calls)]
        mine.sort(key=size)
        if len(mine) < 2:
            continue
        sizes, count = np.log([size(run) for run in mine]), min(len(errors(run)) for run in mine)
        table = np.stack([errors(run)[:count] for run in mine])
        ends = f"{size(mine[0]):,} to {size(mine[-1]):,}"
        setting = f"{ends}, {calls:g} calls, {which}"
        found = ratio(table[-1], table[0])
        told = row(MORE, setting, less(found), "ratio of latent errors", found, mine[-1])
        yield replace(told, pictures=count)
        grown = resampled(partial(_slope, sizes, table), table.shape[1])
        told = row(MORE, setting, judged(*grown[1:]), "growth exponent", grown, mine[-1])
        yield replace(told, pictures=count)


def _slope(sizes: np.ndarray, table: np.ndarray, rows: np.ndarray) -> float:
    return float(-np.polyfit(sizes, np.log(table[:, rows].mean(1)), 1)[0])


def keys(runs: Sequence[Run]) -> Iterator[Claim]:
    """Whether latents are the better key."""
    for run in runs:
        for method, title in (
            ("prompt", "the prompt's embedding"),
            ("clean", "predicted clean latents"),
            ("coarse", "low frequencies"),
            ("random", "chance"),
        ):
            found = ratio(errors(run), errors(run, method))
            setting = f"key step {run.config['kb']['key_step']}, {variant(run)}"
            claim = f"latents are a better key than {title}"
            yield row(claim, setting, less(found), "ratio of latent errors", found, run)


def chance(runs: Sequence[Run]) -> Iterator[Claim]:
    """Whether the nearest trajectories serve better than as many drawn at random."""
    for run in runs:
        if run.first("random") is not None:
            found = ratio(errors(run), errors(run, "random"))
            spent = f"{size(run):,} trajectories, {only(run, 'redi').calls:g} calls"
            claim = "latents are a better key than chance"
            setting = f"{only(run, 'full').sampler}, {spent}{key_step(run)}, {variant(run)}"
            yield row(claim, setting, less(found), "ratio of latent errors", found, run)


def distance_tells(runs: Sequence[Run]) -> Iterator[Claim]:
    """Whether the distance to the neighbour tells the error."""
    for run in runs:
        distance, error = errors(run, column="key_distance"), errors(run)
        found = resampled(partial(_rank_correlation, distance, error), len(error))
        full, redi = only(run, "full"), only(run, "redi")
        setting = (
            f"{full.sampler}, {redi.calls:g} calls, {size(run):,} trajectories{key_step(run)}, "
            f"{variant(run)}"
        )
        claim = "a smaller distance to the neighbour means a smaller error"
        yield row(claim, setting, judged(*found[1:]), "rank correlation", found, run)


def _rank_correlation(x: np.ndarray, y: np.ndarray, rows: np.ndarray) -> float:
    return float(stats.spearmanr(x[rows], y[rows]).statistic)


def unsaid(runs: Sequence[Run]) -> Iterator[Claim]:
    """Whether a neighbour serves a prompt better that says two things than one of four."""
    for run in runs:
        for method in ("redi", "plain") if variant(run) == PUBLISHED else ("redi",):
            entry = only(run, method).entry
            counts: dict[int, int] = dict.fromkeys(range(only(run, method).count), 0)
            for name in ATTRIBUTES:
                for (query, _), at in run.pictures.rows[entry].items():
                    counts[query] += run.pictures.columns[f"correct_{name}"][at] is not None
            said, error = np.array(list(counts.values())), errors(run, method)
            found = resampled(partial(_more_said, said, error), len(error))
            which = variant(run) if method == "redi" else "the same sampler"
            setting = f"{only(run, method).calls:g} calls, {size(run):,} trajectories, {which}"
            claim = "the error is larger where a prompt says four things than where it says two"
            yield row(claim, setting, judged(*found[1:], 1.0), "ratio of errors", found, run)


def _more_said(said: np.ndarray, error: np.ndarray, rows: np.ndarray) -> float:
    said, error = said[rows], error[rows]
    return float(error[said == 4].mean() / error[said == 2].mean())


def stylization(runs: Sequence[Run]) -> Iterator[Claim]:
    """Zero-shot: is the style taken, and the prompt kept, as by full sampling with the style."""
    for run in runs:
        setting = f"value step {run.config['retrieval']['value_step']}, {variant(run)}"
        style = [errors(run, method, "correct_style") for method in ("redi", "full", "content")]
        taken = resampled(lambda rows, s=style: float((s[0] - s[1])[rows].mean()), len(style[0]))
        claim = "zero-shot stylization: the style is taken as by full sampling"
        yield row(claim, setting, judged(taken[1], taken[2], -0.02), "style score", taken, run)
        claim = "zero-shot stylization: the picture fits its prompt as full sampling's does"
        yield from no_loss(claim, setting, run, ("clip_score",))


def neighbours(runs: Sequence[Run]) -> Iterator[Claim]:
    """What several neighbours and the other estimators are worth against the published form."""
    base = next(r for r in runs if variant(r) == PUBLISHED)
    for run in runs:
        chosen = run.config["retrieval"]
        if run is not base:
            found = ratio(errors(run), errors(base))
            setting = f"{chosen['estimator']}, {chosen['neighbours']} neighbours"
            yield row(BETTER_ESTIMATE, setting, less(found), "ratio of latent errors", found, run)


def safe_jumps(runs: Sequence[Run]) -> Iterator[Claim]:
    """Jumping only where a calibrated distance allows it: the promise kept, and what it brings.

    The promise is a share of samples that jump and err by more than the tolerance at the value
    step. It counts as kept where the exact interval stays below it and 5 points.
    """
    for run in runs:
        chosen, full = run.config["retrieval"], only(run, "full")
        setting = f"tolerance {chosen['tolerance']:g}, {variant(run)}"
        failed = errors(run, column="latent_error_at_value") > chosen["tolerance"]
        beyond = stats.binomtest(int(failed.sum()), len(failed)).proportion_ci(method="exact")
        numbers = float(failed.mean()), float(beyond.low), float(beyond.high)
        claim = f"at most {chosen['risk']:.0%} of the samples jump and err by more than promised"
        verdict = judged(-numbers[2], -numbers[1], -chosen["risk"] - 0.05)
        yield row(claim, setting, verdict, "share of samples", numbers, run)
        saved = 1 - errors(run, column="calls") / full.calls
        found = resampled(lambda rows, s=saved: float(s[rows].mean()), len(saved))
        claim = "calibrated jumps save calls"
        yield row(claim, setting, judged(*found[1:]), "share of the calls", found, run)
        claim = "calibrated jumps keep full sampling's quality"
        yield from no_loss(claim, setting, run, ("clip_score",))


def more_noises(runs: Sequence[Run]) -> Iterator[Claim]:
    """What it costs to spread the same trajectories over several noises."""
    ranked = sorted(runs, key=lambda run: run.config["noise"]["bank_size"])
    for run in ranked[1:]:
        counts = [one.config["noise"]["bank_size"] for one in (ranked[0], run)]
        found = ratio(errors(run), errors(ranked[0]))
        setting = f"{counts[1]} noises against {counts[0]}, {variant(run)}"
        verdict = judged(-found[2], -found[1], -1.05)
        yield row(NOISES, setting, verdict, "ratio of latent errors", found, run)
