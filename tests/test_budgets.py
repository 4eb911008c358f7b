"""Corrected sampling at equal calls: ratios, matches and power laws against known numbers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from redi.report.budget_plots import power_law
from redi.report.budgets import budgets
from redi.report.html import html_report
from redi.report.points import COLUMNS
from redi.report.runs import load_run
from redi.report.summary import summarise

PROMPTS, NOISES = 40, 2


def write_run(folder: Path, corrected: dict[int, float], kb_size: int = 8) -> Path:
    """A run whose plain errors are 1 / calls for 'a' and 2 / calls for 'b', times a difficulty."""
    folder.mkdir(parents=True)
    difficulty = np.random.default_rng(0).uniform(0.5, 1.5, PROMPTS * NOISES)
    difficulty /= difficulty.mean()
    entries = {("corrected", "a", calls): share / calls for calls, share in corrected.items()}
    for calls in corrected:
        entries |= {("plain", "a", calls): 1 / calls, ("plain", "b", calls): 2 / calls}
    rows = [
        {
            "entry": str(number),
            "query": i // NOISES,
            "noise": i % NOISES,
            "prompt": f"prompt {i // NOISES}",
            "latent_error": error * hard,
        }
        for number, error in enumerate(entries.values())
        for i, hard in enumerate(difficulty)
    ]
    rows += [{"entry": "f", "query": i, "noise": 0, "prompt": f"prompt {i}"} for i in range(3)]
    pq.write_table(pa.Table.from_pylist(rows), folder / "per_image.parquet")
    common = {"steps": 30, "count": len(difficulty), "psnr": 30.0}
    points = [{"entry": "f", "method": "full", "sampler": "a", "calls": 30.0, **common}]
    points += [
        {
            "entry": str(number),
            "method": method,
            "sampler": sampler,
            "calls": float(calls),
            "kb_size": kb_size if method == "corrected" else None,
            **common,
        }
        for number, (method, sampler, calls) in enumerate(entries)
    ]
    config = {
        "kb": {"size": kb_size},
        "sampling": {"steps": 30},
        "correction": {"levels": ["even"], "trials": 64},
    }
    content = {"schema": 2, "provenance": {}, "config": config, "reference": {}}
    content |= {"settings": list(COLUMNS), "points": points}
    (folder / "results.json").write_text(json.dumps(content))
    return folder


def test_ratios_are_to_the_best_plain_sampler_and_paired(tmp_path: Path) -> None:
    run = load_run(write_run(tmp_path / "run", {2: 0.8, 4: 0.5, 8: 0.4}))
    rows = budgets(run)
    assert [row.calls for row in rows] == [2, 4, 8]
    assert {row.best for row in rows} == {"a"}
    for row, share in zip(rows, (0.8, 0.5, 0.4), strict=True):
        assert row.error.count == PROMPTS  # over prompts, not pictures
        # the difficulty of a prompt cancels: the interval has no width
        assert row.ratio.mean == pytest.approx(share)
        assert (row.ratio.low, row.ratio.high) == (pytest.approx(share), pytest.approx(share))
        assert row.error.low < row.error.mean < row.error.high
    # error 1 / calls: 0.8 of that at 2 calls is reached with 2 / 0.8 calls
    assert [row.calls_to_match for row in rows[:2]] == [pytest.approx(2.5), pytest.approx(8)]
    assert rows[2].calls_to_match is None
    assert budgets(run, "latent_error_converged") == []


def test_a_power_law_is_found() -> None:
    law = power_law([10, 100, 1000], [3 * size**-0.25 for size in (10, 100, 1000)])
    assert (law.scale, law.exponent) == (pytest.approx(3), pytest.approx(0.25))
    assert law(16) == pytest.approx(1.5)


def test_reports_hold_tables_and_figures(tmp_path: Path) -> None:
    write_run(tmp_path / "one" / "run", {2: 0.8, 4: 0.5})
    summarise(tmp_path / "one")
    text = (tmp_path / "one" / "summary.md").read_text()
    assert (
        "| 4 | a | 0.2500" in text and "**0.50 \\[0.50, 0.50\\]**" in text and "2.5 calls" in text
    )
    assert "| 512 images |" in text  # 8 trajectories of 30 + 2 calls, half a call saved each
    assert (tmp_path / "one" / "budgets.png").is_file()
    for name in ("bank", "unseen"):
        write_run(tmp_path / "two" / name, {2: 0.8, 4: 0.5})
    summarise(tmp_path / "two")
    assert not list((tmp_path / "two").glob("budgets*"))
    for size in (8, 32, 128):  # two budgets of one sampler stand at one place of each curve
        write_run(tmp_path / "sweep" / str(size), {2: size**-0.5, 4: size**-0.5 / 2}, size)
    summarise(tmp_path / "sweep")
    assert (tmp_path / "sweep" / "growth.png").is_file()
    assert not list((tmp_path / "sweep").glob("budgets*"))
    page = html_report(tmp_path / "sweep").read_text()
    assert "At equal calls" in page and "size 128" in page
