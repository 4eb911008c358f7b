"""Verdicts of the paper's claims, and what was made of the committed results."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from experiments import claims, judgement, pages, printed_claims
from experiments.rivals import points, printed, results
from redi.report.runs import load_runs

ROOT = Path(claims.__file__).resolve().parent


@pytest.fixture(scope="module")
def judgements() -> list[judgement.Claim]:
    """All claims, from the committed results."""
    return claims.claims()


@pytest.mark.parametrize(
    ("low", "high", "bound", "verdict"),
    [
        (0.1, 0.3, 0.0, "confirmed"),
        (-0.3, -0.1, 0.0, "refuted"),
        (-0.1, 0.3, 0.0, "undecided"),
        (-0.4, 0.3, -0.5, "confirmed"),  # a loss within the margin counts as none
        (-0.9, -0.6, -0.5, "refuted"),
        (-0.9, -0.1, -0.5, "undecided"),
    ],
)
def test_an_interval_is_judged_against_its_margin(
    low: float, high: float, bound: float, verdict: str
):
    assert judgement.judged(low, high, bound) == verdict


def test_a_claim_holds_where_every_part_of_it_does():
    assert judgement.together(["confirmed", "confirmed"]) == "confirmed"
    assert judgement.together(["confirmed", "refuted"]) == "partly"
    assert judgement.together(["undecided", "refuted"]) == "refuted"
    assert judgement.together(["confirmed", "undecided"]) == "partly"


def test_a_ratio_of_errors_is_paired_over_prompts():
    rng = np.random.default_rng(0)
    hard = rng.lognormal(size=200)  # what is hard about a prompt cancels
    mean, low, high = judgement.ratio(0.8 * hard, hard)
    assert mean == pytest.approx(0.8) and low == pytest.approx(0.8) and high == pytest.approx(0.8)
    assert judgement.less((mean, low, high)) == "confirmed"
    noisy = hard * rng.uniform(0.9, 1.1, 200)
    assert judgement.less(judgement.ratio(noisy, hard)) == "undecided"
    assert judgement.less(judgement.ratio(1.2 * hard, hard)) == "refuted"


def test_printed_sentences_are_read_with_their_signs():
    found = {(p.setting, p.metric): p for p in printed_claims.printed()}
    best = found["pndm, guidance 7.5, at its best", "CLIP score"]
    assert (best.gain, best.margin, best.kb_size, best.pictures) == (2.65, 0.94, 512, 512)
    published = found["dpm_solver, guidance 3, as published", "FD-scene"]
    assert (published.gain, published.margin, published.kb_size) == (-0.0263, 0.0118, 1024)
    assert len(found) == 14


def test_printed_tables_are_read_across_wrapped_cells():
    found = list(printed.rows(printed.HERE / "moderate-8.txt"))
    told = {(r["sampler"], r["calls"]): (r["error"], r["margin"]) for r in found}
    assert told["dode:base=dpm_solver_pp:levels=oss", 8] == (0.0979, 0.0065)
    assert told["dpm_solver_pp", 60] == (0.0184, 0.0024) and told["span", 8] == (0.0855, 0.0101)
    assert len(found) == 40


def test_the_committed_claims_are_those_of_the_committed_results(judgements):
    kept = json.loads((ROOT / "claims.json").read_text())
    again = [asdict(claim) for claim in judgements]
    assert [{**c, "value": 0, "low": 0, "high": 0} for c in kept] == [
        {**c, "value": 0, "low": 0, "high": 0} for c in again
    ]
    for one, other in zip(kept, again, strict=True):
        for name in ("value", "low", "high"):
            assert one[name] == pytest.approx(other[name], rel=1e-9, abs=1e-12)
    found = [judgement.Claim(**claim) for claim in kept]
    assert (ROOT / "claims.md").read_text() == claims.table(found)
    made = pages.blocks(found)
    for page in pages.PAGES:  # what the pages show is what was judged
        text = page.read_text()
        assert pages.filled(text, made) == text and "<!-- made: claims -->" in text


@pytest.mark.parametrize("name", [experiment.name for experiment, _ in pages.collected()])
def test_a_page_is_that_of_the_committed_results(name: str, judgements, tmp_path: Path):
    ((experiment, runs),) = [pair for pair in pages.collected() if pair[0].name == name]
    text = (ROOT / name / "README.md").read_text()
    assert pages.page(experiment, runs, judgements, tmp_path) == text
    assert {path.name for path in tmp_path.iterdir()} <= {p.name for p in (ROOT / name).iterdir()}
    for run in runs:  # clean revisions, and no folder of a machine
        assert run.provenance["git"]["changed"] is False
    kept = (ROOT / name / "runs.json").read_text()
    assert '"/' not in kept


def test_every_collected_experiment_has_a_page_and_a_configuration():
    known = {experiment.name for experiment in pages.EXPERIMENTS}
    there = {path.parent.name for path in ROOT.glob("*/runs.json")}
    assert there == {experiment.name for experiment, _ in pages.collected()} <= known
    assert known <= {path.stem for path in (ROOT.parent / "conf" / "experiment").glob("*.yaml")}


def test_the_committed_rivals_are_those_of_the_committed_results():
    found = points.runs()
    rows = [points.row(run, point) for run in found for point in points.budgeted(run)]
    rows += points.printed_rows()
    kept = pq.read_table(ROOT / "rivals" / "points.parquet").to_pylist()
    key = ("setting", "noise", "trajectories", "method", "calls")
    assert len(kept) == len(rows)
    told = {tuple(r[k] for k in key): r["latent_error_converged"] for r in rows}
    for one in kept:
        assert told[tuple(one[k] for k in key)] == one["latent_error_converged"]
        assert {"latent_error_median", "latent_error_p90", "fit_calls", "fit_numbers"} <= set(one)
    table = results.table(sorted(rows, key=results.order), results.comparisons(found, rows))
    assert (ROOT / "rivals" / "table.md").read_text() == table
    pictures = results.picture_tables(points.runs("clip_score"))
    assert (ROOT / "rivals" / "pictures.md").read_text() == pictures


def test_what_the_pages_say_of_the_main_job_is_what_it_measured():
    (run,) = load_runs(ROOT / "main")
    redi, plain, jump = (run.first(name) for name in ("redi", "plain", "jump"))
    told = [f"{p.mean('psnr'):.1f}" for p in (redi, plain, jump)]
    clip = " against ".join(f"{p.mean('clip_score'):.1f}" for p in (redi, plain))
    page = (ROOT / "README.md").read_text()
    assert f"(PSNR to full {told[0]} against {told[1]} dB, CLIP score {clip})" in page
    assert f"({told[2]} dB)" in page


def test_the_table_of_few_calls_is_that_of_the_committed_rivals():
    rows = pq.read_table(ROOT / "rivals" / "points.parquet").to_pylist()
    where = ("hard", "unseen", 192)
    found = defaultdict(dict)
    for one in rows:
        if (one["setting"], one["noise"], one["trajectories"]) == where:
            found[one["method"]][one["calls"]] = one["latent_error_converged"]
            if not one["fitted"]:
                best = found["best plain"]
                least = min(best.get(one["calls"], 9.0), one["latent_error_converged"])
                best[one["calls"]] = least
    page = (ROOT.parent / "README.md").read_text()
    for title, name in (
        ("DPM-Solver++ 2M", "dpm_solver_pp"),
        ("the best plain sampler, chosen on the queries", "best plain"),
        ("D-ODE on DPM-Solver++ and OSS levels", "dode:base=dpm_solver_pp:levels=oss"),
        ("OLSS on visited states and OSS levels", "olss:levels=oss:states=visited"),
        ("**retrieval-corrected**", "corrected"),
    ):
        numbers = [f"{found[name][calls]:.3f}"[1:] for calls in (3, 4, 5, 6, 8, 10)]
        told = [f"**{n}**" if name == "corrected" else n for n in numbers]
        assert f"| {title} | {' | '.join(told)} |" in page


def test_the_ratios_of_the_rivals_page_are_those_of_its_table():
    folder = ROOT / "rivals"
    made = (folder / "table.md").read_text().replace("0.", ".")
    page = (folder / "README.md").read_text().splitlines()
    rows = [line for line in page if line.startswith(("| 2.5", "| 7.5"))]
    told = [cell for row in rows for cell in re.findall(r"\d?\.\d\d \[[^]]*\]", row)]
    assert len(told) == 17
    assert [cell for cell in told if f"| {cell} (" not in made] == []
