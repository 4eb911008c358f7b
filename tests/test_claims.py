"""Verdicts of the paper's claims, and what was made of the committed results."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from experiments import claims, judgement, printed_claims
from experiments.rivals import points, printed, results

ROOT = Path(claims.__file__).resolve().parent


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


def test_the_committed_claims_are_those_of_the_committed_results():
    kept = json.loads((ROOT / "claims.json").read_text())
    again = [asdict(claim) for claim in claims.claims()]
    assert [{**c, "value": 0, "low": 0, "high": 0} for c in kept] == [
        {**c, "value": 0, "low": 0, "high": 0} for c in again
    ]
    for one, other in zip(kept, again, strict=True):
        for name in ("value", "low", "high"):
            assert one[name] == pytest.approx(other[name], rel=1e-9, abs=1e-12)
    found = [judgement.Claim(**claim) for claim in kept]
    assert (ROOT / "claims.md").read_text() == claims.table(found)
    for page in ("../README.md", "README.md"):  # what the pages show is what was judged
        assert claims.summary(found) in (ROOT / page).read_text()


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
    pictures = results.picture_tables(points.pictured())
    assert (ROOT / "rivals" / "pictures.md").read_text() == pictures
