"""Sentences of experiments/README.md that quote results hold what was measured."""

from __future__ import annotations

import json
from functools import cache

import numpy as np
import pytest

from experiments import judges
from experiments.answers import one
from experiments.claims import ROOT, claims
from experiments.judgement import BEST, PUBLISHED, Claim, errors, only
from redi.report.runs import Run, load_runs

CLIP = "CLIP score"
OLSS, DODE = "olss:levels=oss:states=visited", "dode:base=dpm_solver_pp:levels=oss"


@pytest.fixture(scope="module")
def page() -> str:
    """The page on one line, so that no break of it matters."""
    return " ".join((ROOT / "README.md").read_text("utf-8").split())


@pytest.fixture(scope="module")
def found() -> list[Claim]:
    return claims()


def short(value: float, digits: int = 2) -> str:
    """A number below one as pages write it."""
    return f"{value:.{digits}f}".removeprefix("0")


def bracketed(claim: Claim, write=short, sign: float = 1.0) -> str:
    low, high = sorted(sign * number for number in (claim.low, claim.high))
    return f"{write(sign * claim.value)} [{write(low)}, {write(high)}]"


@cache
def runs(experiment: str) -> tuple[Run, ...]:
    return tuple(load_runs(ROOT / experiment))


def run(experiment: str, **wanted: object) -> Run:
    """The run whose settings are these; `kb__size` is `kb.size`."""

    def has(run: Run) -> bool:
        for name, value in wanted.items():
            group, _, key = name.partition("__")
            if run.config[group][key] != value:
                return False
        return True

    (found,) = filter(has, runs(experiment))
    return found


def mean(run: Run, method: str, column: str = "latent_error") -> float:
    return float(only(run, method).mean(column))


def quality(size: int, estimator: str, calls: int = 10) -> Run:
    its = [
        r
        for r in runs("quality")
        if r.config["kb"]["size"] == size
        and r.config["retrieval"]["estimator"] == estimator
        and only(r, "redi").calls == calls
    ]
    (found,) = its
    return found


def test_half_of_the_calls(page: str, found: list[Claim]):
    equal = [
        c for c in found if c.claim == judges.EQUAL and "dpm_solver, guidance 7.5" in c.setting
    ]

    def lost(size: str, which: str, metric: str) -> Claim:
        return one(equal, judges.EQUAL, f"{size} trajectories; {which}", metric)

    published, best = (lost("4,096", which, CLIP) for which in (PUBLISHED, BEST))
    said, scene = (lost("4,096", BEST, m) for m in ("fidelity", "FD-scene"))
    low, high = -published.high, -published.low
    assert f"loses {-published.value:.1f} of CLIP score [{low:.1f}, {high:.1f}]: refuted" in page
    told = bracketed(best, "{:.2f}".format, -1)
    assert f"At its best it loses {told}, {-100 * said.value:.1f} points of fidelity" in page
    low, high = -100 * said.high, -100 * said.low
    assert f"everything said [{low:.1f}, {high:.1f}], and {-scene.value:.3f}" in page
    plain = quality(4096, "transport")
    shares = [mean(plain, name) for name in ("plain", "redi")]
    lead = mean(plain, "full", "clip_score") - mean(plain, "plain", "clip_score")
    told = f"{short(shares[0] / shares[1])} of the latent error ({short(shares[0], 3)} against"
    assert f"loses {lead:.1f} of CLIP score, has {told} {short(shares[1], 3)})" in page
    small = [-lost("1,024", which, CLIP).value for which in (PUBLISHED, BEST)]
    assert f"ReDi loses {small[0]:.1f} and {small[1]:.1f}; at 6 calls" in page
    late = [quality(1024, name, 6) for name in ("transport", "paper")]
    scores = [mean(late[0], "plain", "clip_score"), *(mean(r, "redi", "clip_score") for r in late)]
    told = "{:.1f} (same sampler), {:.1f} (ReDi at its best) and {:.1f}".format(*scores)
    assert told in page


def test_is_it_the_retrieval(page: str, found: list[Claim]):
    for size, words in (
        (1024, "err by {0} where the 256 nearest err by {1}"),
        (4096, "With 4,096 it is: {0} and {1}, ratio"),
    ):
        its = quality(size, "transport")
        told = [short(mean(its, name), 3) for name in ("random", "redi")]
        assert words.format(*told) in page
        scores = [mean(its, name, "clip_score") for name in ("random", "redi")]
        assert "{:.1f} and {:.1f}".format(*scores) in page
    claim = one(found, "latents are a better key than chance", f"4,096; 10 calls; {BEST}")
    assert f"ratio {bracketed(claim)};" in page
    jump = quality(4096, "transport")
    score = mean(jump, "jump", "clip_score")
    assert f"has {short(mean(jump, 'jump'), 3)} and {score:.1f}." in page


def test_with_as_many_calls(page: str, found: list[Claim]):
    (its,) = (r for r in runs("equal_calls") if r.config["sampler"]["name"] == "dpm_solver")
    fitted = ("corrected@10", *(f"plain@10:{n}" for n in (OLSS, DODE)))
    by_entry = {point.entry: point for point in its.points}
    entries = (*fitted, "redi", "plain", "plain@10:dpm_solver_pp")
    error = [short(by_entry[entry].mean("latent_error"), 3) for entry in entries]
    assert (
        "retrieval-corrected sampling errs by {}, OLSS by {} and D-ODE by {}, where ReDi at its "
        "best errs by {}, the same sampler by {} and DPM-Solver++ by {}"
    ).format(*error) in page
    score = [f"{by_entry[entry].mean('clip_score'):.1f}" for entry in (*fitted, "full")]
    assert "({}, {} and {} of {}), fidelity".format(*score) in page
    kept = [c for c in found if c.claim == judges.OTHERS and "10 of 20" in c.setting]
    sure = {c.setting.rsplit(", ", 1)[1] for c in kept} - {
        c.setting.rsplit(", ", 1)[1] for c in kept if c.verdict != "confirmed"
    }
    assert sure == {OLSS, DODE, "retrieval-corrected"}
    lost = one(found, judges.BEATS_ALL, "dpm_solver,; 10 calls", CLIP)
    assert "corrected" in lost.metric
    told = bracketed(lost, "{:.1f}".format, -1)
    assert f"ReDi loses {told[:3]} of CLIP score {told[4:]} against corrected" in page
    calls = [by_entry[entry].setting("fit_calls") for entry in fitted]
    assert f"takes {min(calls):,} to {max(calls):,} network calls once" in page


def test_pndm(page: str, found: list[Claim]):
    by_key = {
        (r.config["kb"]["key_step"], r.config["retrieval"]["estimator"]): r for r in runs("pndm")
    }
    ten = by_key[10, "transport"]
    error = errors(ten, "plain")
    told = f"{short(float(np.median(error)), 3)} in the median, but by more than .3 for"
    assert f"{told} {100 * (error > 0.3).mean():.0f}% of the prompts" in page
    plain, full = (mean(ten, name, "clip_score") for name in ("plain", "full"))
    assert f"has a CLIP score of {plain:.1f} (full {full:.1f})" in page
    where = "pndm, guidance 7.5; 4,096; key step 10"
    published = one(found, judges.BEATS, f"{where}; {PUBLISHED}", CLIP)
    score = mean(by_key[10, "paper"], "redi", "clip_score")
    told = bracketed(published, "{:.1f}".format)
    assert f"ReDi has the same ({score:.1f}, difference {told}) and less fidelity" in page
    ahead = one(found, judges.BEATS, f"{where}; {BEST}", CLIP)
    said = one(found, judges.BEATS, f"{where}; {BEST}", "fidelity")
    numbers = [ahead.value, ahead.low, ahead.high]
    numbers += [100 * n for n in (said.value, said.low, said.high)]
    assert (
        "PNDM by {:.1f} of CLIP score [{:.1f}, {:.1f}] and {:.1f} points of everything said "
        "[{:.1f}, {:.1f}]"
    ).format(*numbers) in page
    lost = one(found, judges.EQUAL, f"{where}; {BEST}", CLIP)
    assert lost.verdict == "undecided"
    told = bracketed(lost, "{:.2f}".format, -1).split(" ", 1)
    assert f"still loses {told[0]} of CLIP score {told[1]}" in page
    others = [mean(ten, name, "clip_score") for name in ("prompt", "random")]
    assert "well ({:.1f}), and 256 random ones nearly ({:.1f})".format(*others) in page
    (beside,) = (r for r in runs("equal_calls") if r.config["sampler"]["name"] == "pndm")
    (rival,) = (p for p in beside.points if p.entry == "methods.plain")
    kept = [c for c in found if c.claim == judges.OTHERS and "26 of 51" in c.setting]
    assert {c.verdict for c in kept} == {"confirmed"} and rival.calls == 26
    assert f"full sampling's quality ({rival.mean('clip_score'):.1f})" in page
    scores = [
        f"{mean(by_key[step, name], 'redi', 'clip_score'):.1f}"
        for name in ("transport", "paper")
        for step in (2, 5, 15)
    ]
    told = "at its best has {}, {} and {}, as published {}, {} and {}".format(*scores)
    full = mean(by_key[2, "paper"], "full", "clip_score")
    assert f"{told} (256 pictures, full {full:.1f})" in page
    ends = [short(mean(by_key[step, "transport"], "redi"), 3) for step in (2, 15)]
    assert f"falls from {ends[0]} at key step 2 to {ends[1]} at 15" in page


def test_other_samplers(page: str, found: list[Claim]):
    its = {
        (r.config["sampler"]["name"], r.config["retrieval"]["estimator"]): r
        for r in runs("other_samplers")
    }
    forms = ("transport", "paper")
    told = [
        short(mean(its["ddim", "transport"], "plain"), 3),
        *(short(mean(its["ddim", form], "redi"), 3) for form in forms),
        short(mean(its["dpm_solver_pp", "transport"], "plain"), 3),
        *(short(mean(its["dpm_solver_pp", form], "redi"), 3) for form in forms),
    ]
    assert (
        "DDIM with 25 calls errs by {}, ReDi at its best by {} and as published by {}; "
        "DPM-Solver++ with 10 calls by {}, ReDi by {} and {}."
    ).format(*told) in page

    def lost(sampler: str, which: str) -> str:
        claim = one(found, judges.EQUAL, f"{sampler}, guidance 7.5; {which}", CLIP)
        return bracketed(claim, lambda n: f"{abs(n):.1f}", -1)

    ddim, other = (lost(name, PUBLISHED).split(" ", 1) for name in ("ddim", "dpm_solver_pp"))
    assert f"ReDi loses {ddim[0]} of CLIP score {ddim[1]} with DDIM and {' '.join(other)}" in page
    told = [lost(name, BEST) for name in ("ddim", "dpm_solver_pp")]
    assert "At its best it loses {} and {}, which 256".format(*told) in page
    best = [its[name, "transport"] for name in ("ddim", "dpm_solver_pp")]
    told = [f"{mean(r, m, 'clip_score'):.1f}" for m in ("redi", "random") for r in best]
    assert "({} and {} against {} and {})".format(*told) in page


def test_weaker_guidance(page: str, found: list[Claim]):
    where = "dpm_solver, guidance 1.5; 1,024 trajectories"
    published, best = (one(found, judges.EQUAL, f"{where}; {w}", CLIP) for w in (PUBLISHED, BEST))
    low, high = -published.high, -published.low
    told = f"loses {-published.value:.1f} of CLIP score [{low:.1f}, {high:.1f}] as published and"
    assert f"{told} {bracketed(best, '{:.1f}'.format, -1)} at its best, the same" in page
    assert {published.verdict, best.verdict} == {"refuted"}
    (its, *_) = runs("guidance")
    assert mean(its, "plain", "clip_score") >= mean(its, "full", "clip_score")


def test_more_trajectories(page: str, found: list[Claim]):
    by_size = {
        (r.config["kb"]["size"], r.config["retrieval"]["estimator"]): r for r in runs("kb_size")
    }
    for name in ("paper", "transport"):
        ends = [short(mean(by_size[size, name], "redi"), 3) for size in (64, 4096)]
        assert f"{ends[0]} to {ends[1]}" in page
    for setting in (f"64 to 4,096; {PUBLISHED}", f"1,024 to 4,096; {BEST}"):
        claim = one(found, judges.MORE, setting, "ratio")
        slope = one(found, judges.MORE, setting, "growth")
        assert f"ratio {bracketed(claim)}, exponent {bracketed(slope)}" in page
    near = [mean(by_size[size, "paper"], "redi", "key_distance") for size in (64, 4096)]
    assert f"The distance to the neighbour falls from {near[0]:.1f} to {near[1]:.1f}" in page


def test_what_is_left_unsaid(page: str, found: list[Claim]):
    claim = "the error is larger where a prompt says four things"
    published, best, plain = (
        one(found, claim, f"10 calls, 4,096; {which}")
        for which in (PUBLISHED, BEST, "the same sampler")
    )
    assert f"the error is {bracketed(published)} times that where two" in page
    assert f"as published, and {bracketed(best)} times at its best; {bracketed(plain)} for" in page


def test_jumping_only_where_it_is_safe(page: str, found: list[Claim]):
    for tolerance, words in (
        (0.15, "{0}% jump, {1} jump and exceed it, and {2}% of the calls are saved"),
        (0.25, "with .25 it is {0}%, {1} and {2}%"),
    ):
        its = run("skip", retrieval__tolerance=tolerance)
        jumped = 100 * np.mean(errors(its, column="jumped"))
        beyond = one(found, "at most 10%", f"tolerance {tolerance:g}")
        numbers = [100 * number for number in (beyond.value, beyond.low, beyond.high)]
        saved = one(found, "calibrated jumps save", f"tolerance {tolerance:g}")
        told = "{:.1f}% [{:.1f}, {:.1f}]".format(*numbers)
        assert words.format(f"{jumped:.0f}", told, f"{100 * saved.value:.0f}") in page
    lost = [
        bracketed(one(found, "calibrated jumps keep", f"tolerance {t}"), "{:.2f}".format, -1)
        for t in ("0.15", "0.25")
    ]
    assert f"Over all it is {lost[0]} and {lost[1]}, so equal quality is not shown" in page
    strict, loose = (run("skip", retrieval__tolerance=t) for t in (0.15, 0.25))
    told = [
        f"{short(mean(r, 'redi'), 3)} with {only(r, 'redi').calls:.1f}" for r in (strict, loose)
    ]
    assert f"with 14 calls errs by {short(mean(loose, 'plain'), 3)}, less than either" in page
    assert f"({told[0]} calls, {told[1]})" in page


def test_key_distance_and_noises(page: str, found: list[Claim]):
    claim = "latents are a better key than the prompt"
    published, best = (one(found, claim, which) for which in (PUBLISHED, BEST))
    low, high = short(published.low), short(published.high)
    assert f"embedding: {short(published.value)} of its error [{low}, {high}]" in page
    assert f"they are a worse one: {bracketed(best)}" in page
    claim = "a smaller distance to the neighbour"
    published, best = (
        one(found, claim, f"dpm_solver,; 10 calls, 4,096; {which}") for which in (PUBLISHED, BEST)
    )
    told = f"rank correlation {bracketed(published)} as published and {bracketed(best)} at its best"
    assert told in page
    ratio = one(found, judges.NOISES, "8 noises")
    one_noise, eight = (run("noise", noise__bank_size=n) for n in (1, 8))
    told = [short(mean(r, "redi"), 3) for r in (eight, one_noise)]
    assert f"ReDi errs by {told[0]}; with one noise by {told[1]}: ratio {bracketed(ratio)}" in page
    told = [short(mean(r, "plain"), 3) for r in (eight, one_noise)]
    assert f"The same sampler errs by {told[0]} and {told[1]}." in page


def test_estimates_and_stylization(page: str):
    for name, words in (
        ("paper", "their values, least squares (as published)"),
        ("transport", "their displacement (`transport`)"),
        ("delta", "their curvature (`delta`)"),
    ):
        its = [
            run("estimators", retrieval__estimator=name, retrieval__neighbours=count)
            for count in (1, 16, 64)
        ]
        cells = [f"{short(mean(r, 'redi'), 3)}, {mean(r, 'redi', 'clip_score'):.1f}" for r in its]
        assert f"| {words} | {' | '.join(cells)} |" in page
    published, best = (run("stylization", retrieval__estimator=n) for n in ("paper", "transport"))
    style = [short(float(errors(r, "redi", "correct_style").mean())) for r in (published, best)]
    assert f"the style score is {style[0]} as published and {style[1]} at its best" in page


def test_the_theory_on_the_embedded_model(page: str):
    study = json.loads((ROOT / "theory" / "emoji" / "results.json").read_text("utf-8"))["theory"]
    names = ("pndm", "dpm_solver")
    pairs = [study["certificate"][name] for name in names]
    late = [study["plug_in"][name]["14"] for name in names]
    widest = [
        {row["form"]: row["final"]["tightness_median"] for row in block["bounds"]}
        for block in late  # rows by rising quantile: the last one stays
    ]
    tight = ("median_tightness", "median_tightness_step_map")
    told = [f"{c[tight[0]]:.0f}, {c[tight[1]]:.1f}" for c in pairs]
    assert f"Lipschitz constants, step map | {told[0]} | {told[1]} |" in page
    assert f"violations in {pairs[0]['pairs']:,} pairs | 0 | 0 |" in page
    assert [c["violations"] for c in pairs] == [0, 0]
    for name, block in zip(names, late, strict=True):
        ranks = {k: short(v["spearman"]) for k, v in block["correlation"].items()}
        chosen = [ranks[k] for k in ("plug_in_lipschitz", "key_distance", "fit_residual")]
        assert f"| {', '.join(chosen)} |" in page, name
        lost = [
            short(block["picture_correlation"][k]["key_distance"]["spearman"])
            for k in ("psnr", "ssim", "clip_score")
        ]
        assert f"| {', '.join(lost)} |" in page, name
    bound = [
        f"{round(w['lipschitz'], digits):,.0f}, {w['step_map']:.0f}"
        for w, digits in zip(widest, (-3, -2), strict=True)
    ]
    assert f"| {bound[0]} | {bound[1]} |" in page
    for score, name in (("key_distance", "pndm"), ("key_distance", "dpm_solver")):
        rows = study["conformal"][name]["scores"][score]
        failed = " / ".join(short(row["achieved"], 3) for row in rows)
        saved = " / ".join(f"{row['calls_saved']:.1f}" for row in rows)
        assert failed in page and saved in page
    runs_of = study["corrected"]
    errors_ = [short(runs_of[n]["relative_error_median"], 3) for n in ("5", "10")]
    known = [short(runs_of[n]["predicted_median"], 3) for n in ("5", "10")]
    assert f"error {errors_[0]} with 5 calls and {errors_[1]} with 10, predicted" in page
    assert f"predicted {known[0]} and {known[1]} before any query" in page
