"""Every claim of the paper with a verdict.

`python -m experiments.claims` writes claims.json and claims.md from the experiments' results. A
claim about equal quality is one of non-inferiority: the paired 95% interval of the loss against
full sampling, over prompts, has to stay within a margin that was stated before (0.5 of CLIP score,
2 points of fidelity in everything said, 5% of full sampling's FD-scene). It is refuted where the
whole interval is beyond the margin, and undecided in between. A claim that one thing is better
than another is confirmed or refuted where the interval of the paired difference excludes zero.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
from scipy import stats

from experiments.printed_claims import printed
from redi.embedded.scenes import ATTRIBUTES
from redi.metrics.base import Quality
from redi.metrics.catalogue import qualities
from redi.metrics.intervals import percentiles
from redi.report.claim import claims as shares
from redi.report.compare import compare, same_calls
from redi.report.points import Point
from redi.report.runs import Run, load_runs

ROOT = Path(__file__).resolve().parent
CONFIRMED, REFUTED, PARTLY, UNDECIDED = "confirmed", "refuted", "partly", "undecided"
JUDGED = ("clip_score", "prompt_fidelity.all", "fd_scene")
ORDER = (CONFIRMED, PARTLY, UNDECIDED, REFUTED)
BEATS = "better than the same sampler with as many calls"
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


def twice_as_fast(runs: Sequence[Run]) -> Iterator[Claim]:
    """Equal quality at half of the calls, and against the same sampler with as many."""
    for run in runs:
        redi, full = only(run, "redi"), only(run, "full")
        if not 0.45 <= redi.calls / full.calls <= 0.55:
            continue
        scale = run.config["sampling"]["guidance_scale"]
        setting = f"{full.sampler}, guidance {scale:g}, {size(run):,} trajectories, {variant(run)}"
        known = qualities()
        for name in JUDGED:
            found = gain(run, redi, full, known[name])
            if found is not None:
                verdict = judged(found[1], found[2], -found[3])
                claim = "full sampling's quality at half of its calls"
                yield row(claim, setting, verdict, known[name].title, found[:3], run)
        plain = same_calls(redi, run)
        for name in ("clip_score", "prompt_fidelity.all", "fd_scene", "latent_error"):
            found = None if plain is None else gain(run, redi, plain, known[name])
            if found is not None:
                yield row(BEATS, setting, judged(*found[1:3]), known[name].title, found[:3], run)


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


def more_trajectories(runs: Sequence[Run]) -> Iterator[Claim]:
    """Whether errors fall with the KB, and how fast."""
    for which in dict.fromkeys(map(variant, runs)):
        mine = [run for run in runs if variant(run) == which]
        mine.sort(key=size)
        if len(mine) < 2:
            continue
        sizes = np.log([size(run) for run in mine])
        table = np.stack([errors(run) for run in mine])
        ends = f"{size(mine[0]):,} to {size(mine[-1]):,}"
        setting, claim = f"{ends}, {which}", "more trajectories lower the error"
        found = ratio(table[-1], table[0])
        yield row(claim, setting, less(found), "ratio of latent errors", found, mine[-1])
        grown = resampled(partial(_slope, sizes, table), table.shape[1])
        yield row(claim, setting, judged(*grown[1:]), "growth exponent", grown, mine[-1])


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


def distance_tells(runs: Sequence[Run]) -> Iterator[Claim]:
    """Whether the distance to the neighbour tells the error."""
    for run in runs:
        distance, error = errors(run, column="key_distance"), errors(run)
        found = resampled(partial(_rank_correlation, distance, error), len(error))
        full, redi = only(run, "full"), only(run, "redi")
        setting = (
            f"{full.sampler}, {redi.calls:g} calls, {size(run):,} trajectories, {variant(run)}"
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
        redi, full = only(run, "redi"), only(run, "full")
        style = [errors(run, method, "correct_style") for method in ("redi", "full", "content")]
        taken = resampled(lambda rows, s=style: float((s[0] - s[1])[rows].mean()), len(style[0]))
        claim = "zero-shot stylization: the style is taken as by full sampling"
        yield row(claim, setting, judged(taken[1], taken[2], -0.02), "style score", taken, run)
        found = gain(run, redi, full, qualities()["clip_score"])
        if found is not None:
            claim = "zero-shot stylization: the picture fits its prompt as full sampling's does"
            verdict = judged(found[1], found[2], -found[3])
            yield row(claim, setting, verdict, "CLIP score", found[:3], run)


def neighbours(runs: Sequence[Run]) -> Iterator[Claim]:
    """What several neighbours and the other estimators are worth against the published form."""
    base = next(r for r in runs if variant(r) == PUBLISHED)
    for run in runs:
        chosen = run.config["retrieval"]
        if run is not base:
            found = ratio(errors(run), errors(base))
            setting = f"{chosen['estimator']}, {chosen['neighbours']} neighbours"
            claim = "another estimate errs less than the published one with one neighbour"
            yield row(claim, setting, less(found), "ratio of latent errors", found, run)


def safe_jumps(runs: Sequence[Run]) -> Iterator[Claim]:
    """Jumping only where a calibrated distance allows it: the promise kept, and what it brings.

    The promise is a share of samples that jump and err by more than the tolerance at the value
    step. It counts as kept where the exact interval stays below it and 5 points.
    """
    for run in runs:
        chosen, redi, full = run.config["retrieval"], only(run, "redi"), only(run, "full")
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
        equal = gain(run, redi, full, qualities()["clip_score"])
        if equal is not None:
            claim = "calibrated jumps keep full sampling's quality"
            verdict = judged(equal[1], equal[2], -equal[3])
            yield row(claim, setting, verdict, "CLIP score", equal[:3], run)


def more_noises(runs: Sequence[Run]) -> Iterator[Claim]:
    """What it costs to spread the same trajectories over several noises."""
    ranked = sorted(runs, key=lambda run: run.config["noise"]["bank_size"])
    for run in ranked[1:]:
        counts = [one.config["noise"]["bank_size"] for one in (ranked[0], run)]
        found = ratio(errors(run), errors(ranked[0]))
        setting = f"{counts[1]} noises against {counts[0]}, {variant(run)}"
        claim = "trajectories spread over several noises serve as well"
        verdict = judged(-found[2], -found[1], -1.05)
        yield row(claim, setting, verdict, "ratio of latent errors", found, run)


PARTS: tuple[tuple[str, Callable[[Sequence[Run]], Iterator[Claim]]], ...] = (
    ("quality", twice_as_fast),
    ("other_samplers", twice_as_fast),
    ("guidance", twice_as_fast),
    ("quality", smallest_share),
    ("kb_size", more_trajectories),
    ("key", keys),
    ("quality", distance_tells),
    ("quality", unsaid),
    ("estimators", neighbours),
    ("noise", more_noises),
    ("skip", safe_jumps),
    ("stylization", stylization),
)


def from_print() -> Iterator[Claim]:
    """What is left of runs whose files are lost."""
    for one in printed():
        low, high = one.gain - one.margin, one.gain + one.margin
        yield Claim(
            BEATS,
            one.setting,
            judged(low, high),
            one.metric,
            one.gain,
            low,
            high,
            one.kb_size,
            one.pictures,
            "guidance",
        )


def claims() -> list[Claim]:
    """All of them, from the experiments that are there."""
    found = list(from_print())
    for name, judge in PARTS:
        if any((ROOT / name).glob("*/results.json")):
            found += judge(load_runs(ROOT / name))
    return found


def table(found: Sequence[Claim]) -> str:
    """A row for each claim and setting; each metric with its interval and verdict."""
    lines = ["| claim | setting | verdict | evidence |", "| --- | --- | --- | --- |"]
    groups: dict[tuple[str, str], list[Claim]] = {}
    for claim in found:
        groups.setdefault((claim.claim, claim.setting), []).append(claim)
    for (claim, setting), rows in groups.items():
        told = "; ".join(f"{r.metric} {r.value:.3g} [{r.low:.3g}, {r.high:.3g}]" for r in rows)
        verdict = together([r.verdict for r in rows])
        lines.append(f"| {claim} | {setting} | {verdict} | {told} |")
    return "\n".join(lines) + "\n"


def summary(found: Sequence[Claim]) -> str:
    """A row for each claim: verdicts over all settings, for ReDi as published and at its best."""
    lines = ["| claim | as published | at its best | pictures |", "| --- | --- | --- | ---: |"]
    for claim in dict.fromkeys(c.claim for c in found):
        rows = [c for c in found if c.claim == claim]
        cells = []
        for which in (PUBLISHED, BEST):
            groups: dict[str, list[str]] = {}
            for one in rows:
                if one.setting.endswith(which) or f"{which}," in one.setting:
                    groups.setdefault(one.setting, []).append(one.verdict)
            verdicts = [together(group) for group in groups.values()]
            counts = [f"{verdicts.count(v)} {v}" for v in ORDER if v in verdicts]
            cells.append(", ".join(counts) or "–")
        if cells == ["–", "–"]:
            verdicts = [c.verdict for c in rows]
            cells[1] = ", ".join(f"{verdicts.count(v)} {v}" for v in ORDER if v in verdicts)
        most = max(c.pictures for c in rows)
        lines.append(f"| {claim} | {cells[0]} | {cells[1]} | {most:,} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    found = claims()
    text = json.dumps([asdict(claim) for claim in found], indent=1)
    (ROOT / "claims.json").write_text(text + "\n", "utf-8")
    (ROOT / "claims.md").write_text(table(found), "utf-8")
    print(
        f"{len(found)} judgements of {len({c.claim for c in found})} claims: {ROOT / 'claims.json'}"
    )


if __name__ == "__main__":
    main()
