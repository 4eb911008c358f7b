"""Reports from results files: numbers, words, and pictures."""

from __future__ import annotations

import copy
import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console

from redi.errors import UsageError
from redi.methods import METHODS as KINDS
from redi.methods.few.method import FittedLevels
from redi.metrics.catalogue import qualities
from redi.report.compare import BETTER, SAME, WORSE, compare
from redi.report.html import html_report
from redi.report.labels import METHODS, calls, method_label, significant, with_margin
from redi.report.markdown import markdown_report
from redi.report.pareto import best_plain, headline, pareto_figure, pareto_front, shown_samplers
from redi.report.points import COLUMNS, Value
from redi.report.runs import Run, find_runs, load_run, load_runs
from redi.report.sections import run_sections
from redi.report.sheets import GAP, MARGIN, PROMPT_WIDTH, SheetRow, sheet
from redi.report.summary import summarise
from redi.report.table import print_table
from redi.report.verdict import verdicts

PSNR = qualities()["psnr"]


def measured(name: str, mean: float, margin: float) -> dict[str, float]:
    return {name: mean, f"{name}_low": mean - margin, f"{name}_high": mean + margin}


def a_point(method: str, calls: float, psnr: float | None = None, **more: Any) -> dict[str, Any]:
    reuse = method not in ("full", "plain")
    point: dict[str, Any] = {
        "entry": method,
        "method": method,
        "sampler": "ddim",
        "steps": 40,
        "key_step": 8 if reuse else None,
        "value_step": 28 if reuse else None,
        "kb_size": 128 if reuse else None,
        "neighbours": 1 if reuse else None,
        "estimator": "paper" if method == "redi" else None,
        "calls": calls,
        "count": 64,
        "seconds_per_image": calls / 50,
        "speedup": 40 / calls,
    }
    return point | (measured("psnr", psnr, 0.3) if psnr is not None else {}) | more


def a_run(folder: Path, points: list[dict[str, Any]], **content: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    results = {
        "schema": 2,
        "provenance": {"finished": "2026-01-01T00:00:00Z", "config_hash": folder.name},
        "config": {"seed": 0},
        "reference": {"evaluator_accuracy": {"object": 0.97}, "real": {"fd_scene": 0.01}},
        "settings": [name for name in COLUMNS if name not in ("experiment", "run")],
        "points": points,
    }
    (folder / "results.json").write_text(json.dumps(results | content))
    return folder


def with_pictures(folder: Path, values: dict[str, dict[str, Sequence[float]]]) -> Path:
    """Write per-picture columns, by entry; one noise of each prompt."""
    rows = [
        {"entry": entry, "query": i, "noise": 0, "prompt": f"prompt {i}"}
        | {name: float(column[i]) for name, column in columns.items()}
        for entry, columns in values.items()
        for i in range(len(next(iter(columns.values()))))
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / "per_image.parquet")
    return folder


def markdown_table(run: Run) -> str:
    return markdown_report("", run_sections(run), run.folder)


def usual(shift: float = 0.0) -> list[dict[str, Any]]:
    fidelity = {"object": 0.8, "background": 0.9, "style": 1.0, "size": 0.75, "place": 0.5}
    return [
        a_point("full", 40, **measured("clip_score", 28.0, 0.5)),
        a_point("plain", 20, 41.5, **measured("clip_score", 27.9, 0.5), ssim=0.99),
        a_point(
            "redi",
            20,
            24.1 + shift,
            **measured("clip_score", 27.8, 0.5),
            **{
                key: value
                for name, share in fidelity.items()
                for key, value in measured(f"prompt_fidelity.{name}", share, 0.1).items()
            },
        ),
        a_point("jump", 20, 29.0),
    ]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return a_run(tmp_path / "one", usual())


# Results


def test_values_carry_their_intervals_and_absent_ones_stay_absent(run: Path):
    results = load_run(run)
    full, plain, redi, _ = results.points
    assert results.name == "one" and redi.title == "ReDi" and redi.key_step == 8
    assert redi.values["psnr"] == Value(24.1, 24.1 - 0.3, 24.1 + 0.3)
    assert redi.values["prompt_fidelity.size"] == Value(0.75, 0.65, 0.85)
    assert plain.values["ssim"] == Value(0.99) and full.mean("psnr") is None
    assert not any("low" in name or "high" in name for name in redi.values)
    assert results.ceiling("prompt_fidelity.object") == 0.97
    assert results.ceiling("fd_scene") == 0.01 and results.ceiling("clip_score") is None


@pytest.mark.parametrize("value", [None, float("nan"), float("inf")])
def test_what_is_not_a_finite_number_counts_as_not_computed(tmp_path: Path, value: float | None):
    points = [a_point("plain", 20, psnr=None, psnr_low=1.0, ssim=value)]
    assert "ssim" not in load_run(a_run(tmp_path / "run", points)).points[0].values


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"method": 3}, "points[0].method=3"),
        ({"sampler": None}, "points[0].sampler=None"),
        ({"steps": 2.5}, "points[0].steps=2.5"),
        ({"calls": None}, "points[0].calls=None"),
        ({"kb_size": "big"}, "points[0].kb_size='big'"),
        ({"estimator": 3}, "points[0].estimator=3"),
        ({"resume": 1}, "points[0].resume=1"),
        ({"guidance_scale": "strong"}, "points[0].guidance_scale='strong'"),
        ({"psnr": "good"}, "points[0].psnr='good'"),
        ({"prompt_fidelity.object": True}, "points[0].prompt_fidelity.object=True"),
    ],
)
def test_malformed_points_are_named(tmp_path: Path, change: dict[str, Any], said: str):
    folder = a_run(tmp_path / "run", [a_point("plain", 20, 30.0) | change])
    with pytest.raises(UsageError) as error:
        load_run(folder)
    assert said in str(error.value)


def test_other_schemas_and_missing_parts_are_refused(tmp_path: Path):
    with pytest.raises(UsageError, match="schema=1 .* reads schema 2"):
        load_run(a_run(tmp_path / "new", usual(), schema=1))
    with pytest.raises(UsageError, match=r"points=\[\]"):
        load_run(a_run(tmp_path / "empty", []))
    with pytest.raises(UsageError, match="config=3"):
        load_run(a_run(tmp_path / "odd", usual(), config=3))
    (tmp_path / "odd" / "results.json").write_text("[1, 2")
    with pytest.raises(UsageError, match="damaged"):
        load_run(tmp_path / "odd")
    (tmp_path / "odd" / "results.json").write_text("[1, 2]")
    with pytest.raises(UsageError, match="schema=None"):
        load_run(tmp_path / "odd")


def test_runs_are_found_below_a_directory(tmp_path: Path):
    with pytest.raises(UsageError, match="does not exist"):
        find_runs(tmp_path / "nowhere")
    (tmp_path / "unfinished").mkdir()
    with pytest.raises(UsageError, match="holds no results.json"):
        find_runs(tmp_path)
    with pytest.raises(UsageError, match="has finished"):
        load_run(tmp_path / "unfinished")
    expected = [a_run(tmp_path / name, usual()) for name in ("a/x", "b")]
    assert find_runs(tmp_path) == expected and find_runs(expected[1]) == [expected[1]]


# Numbers in words


def test_numbers_show_three_digits_and_their_margin():
    assert [significant(x) for x in (412.3, 24.14, 0.063, 0, -1.5)] == [
        "412",
        "24.1",
        "0.0630",
        "0",
        "-1.50",
    ]
    assert with_margin(24.14, 0.31) == "24.1 ± 0.3" and with_margin(41.52, 0.04) == "41.52 ± 0.04"
    assert with_margin(5.0, 0.0) == "5.00 ± 0.00" and with_margin(24.14, 1e-9) == "24.140 ± 0.000"
    assert str(Value(0.5)) == "0.500" and str(Value(10, 9, 12)) == "10.0 ± 2.0"
    assert calls(20.0) == "20" and calls(21.25) == "21.2"


# Table


def cells(markdown: str) -> dict[str, dict[str, str]]:
    lines = [line for line in markdown.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    names = rows[0]
    key = names.index("method")
    return {row[key]: dict(zip(names, row, strict=True)) for row in rows[2:]}


def test_table_has_a_dash_for_what_was_not_computed(run: Path):
    table = cells(markdown_table(load_run(run)))
    assert list(table) == [METHODS[m] for m in ("full", "plain", "redi", "jump")]
    full, redi = table["full sampling"], table["ReDi"]
    assert full["PSNR to full (dB)"] == "–" and full["SSIM"] == "–" and full["FD-scene"] == "–"
    assert redi["PSNR to full (dB)"] == "24.1 ± 0.3"
    assert (redi["calls"], redi["speedup"], redi["ms per image"]) == ("20", "2.00×", "400")
    fidelity = next(name for name in full if name.startswith("fidelity %"))
    assert full[fidelity] == "–"
    measured = [share for share in redi[fidelity].split("/") if share != "–"]
    assert measured == ["**80**", "**90**", "**100**", "**75**", "**50**"]


def test_bold_is_the_best_at_no_more_calls_than_redi(run: Path):
    table = cells(markdown_table(load_run(run)))
    score = {name: row["CLIP score"] for name, row in table.items()}
    assert score["full sampling"] == "28.0 ± 0.5"  # better, but at 40 calls
    assert score["same sampler, same calls"] == "**27.9 ± 0.5**"
    assert score["ReDi"] == "27.8 ± 0.5"
    assert table["same sampler, same calls"]["PSNR to full (dB)"].startswith("**41.5")


def test_lower_is_better_for_errors(tmp_path: Path):
    points = [a_point("plain", 20, latent_error=0.1), a_point("redi", 20, latent_error=0.2)]
    table = cells(markdown_table(load_run(a_run(tmp_path / "run", points))))
    assert table["same sampler, same calls"]["latent error"] == "**0.100**"
    assert table["ReDi"]["latent error"] == "0.200"


def test_rows_of_one_method_are_told_apart_by_what_differs(tmp_path: Path):
    common = {"resume": "rewarm", "noise": "shared", "guidance_scale": 2.5}
    points = [
        a_point("redi", 20, **common, seed=0),
        a_point("redi", 15, value_step=33, **common, seed=1) | {"estimator": "delta"},
    ]
    table = cells(markdown_table(load_run(a_run(tmp_path / "run", points))))
    assert list(table) == [
        "ReDi, v = 33, estimator = delta, seed = 1",
        "ReDi, v = 28, estimator = paper, seed = 0",
    ]


def test_printed_table_says_the_same_and_takes_names_literally(tmp_path: Path):
    results = load_run(a_run(tmp_path / "x", usual()), "[red]v=28")
    out = io.StringIO()
    print_table(results, Console(file=out, width=200))
    text = out.getvalue()
    assert "[red]v=28" in text and "24.1 ± 0.3" in text and "real pictures: object 97%." in text
    assert verdicts(results)[0][:60] in text
    assert max(len(line) for line in text.splitlines()) <= 200


# Verdict


PROMPTS = 40


def judged(folder: Path, gap: float, noise: float = 0.2) -> Run:
    """ReDi and the same sampler, whose PSNR differ by `gap` on average over hard and easy prompts.

    What is hard about a prompt (10 dB) is far more than their difference.
    """
    rng = np.random.default_rng(0)
    hard = rng.normal(0, 10, PROMPTS)
    own = rng.normal(0, noise, PROMPTS)
    psnr = {"plain": 40 + hard, "redi": 40 + hard + own - own.mean() + gap}
    points = [
        a_point("full", 40),
        a_point("plain", 20, float(psnr["plain"].mean())),
        a_point("redi", 20, float(psnr["redi"].mean())),
    ]
    return load_run(with_pictures(a_run(folder, points), {e: {"psnr": v} for e, v in psnr.items()}))


@pytest.mark.parametrize(
    ("gap", "outcome", "said"),
    [
        (-1.0, WORSE, "it is worse in PSNR to full (38.4 ± 0.3 against 39.4 ± 0.3 dB, paired"),
        (1.0, BETTER, "it is better in PSNR to full (40.4 ± 0.3 against 39.4 ± 0.3 dB, paired"),
        (0.0, SAME, "it shows no difference within the interval in PSNR to full (39.4"),
    ],
)
def test_points_are_compared_prompt_by_prompt(tmp_path: Path, gap: float, outcome: str, said: str):
    run = judged(tmp_path / "run", gap)
    full, plain, redi = run.points
    found = compare(run, redi, plain, PSNR)
    assert found is not None and found.outcome == outcome
    assert found.mean == pytest.approx(gap, abs=1e-9) and found.high - found.low < 0.2
    assert compare(run, redi, full, PSNR) is None  # full sampling has no PSNR to itself
    (sentence,) = verdicts(run)
    assert sentence.startswith(
        "ReDi (ddim, k = 8, v = 28) takes 20 calls where full sampling takes 40 (50% saved); "
        "against the same sampler at 20 calls "
    )
    assert said in sentence, sentence


def test_the_noises_of_a_prompt_stay_together(tmp_path: Path):
    """Twice the pictures of the same prompts are no more evidence."""
    rng = np.random.default_rng(1)
    gaps = rng.normal(0.3, 1, PROMPTS)
    widths = []
    for noises in (1, 4):
        folder = a_run(
            tmp_path / str(noises), [a_point("plain", 20, 0.0), a_point("redi", 20, 0.3)]
        )
        rows = [
            {"entry": e, "query": i, "noise": n, "prompt": f"p{i}", "psnr": gap * (e == "redi")}
            for e in ("plain", "redi")
            for i, gap in enumerate(gaps.tolist())
            for n in range(noises)
        ]
        pq.write_table(pa.Table.from_pylist(rows), folder / "per_image.parquet")
        run = load_run(folder)
        found = compare(run, run.points[1], run.points[0], PSNR)
        assert found is not None
        widths.append((found.mean, found.low, found.high))
    assert widths[0] == pytest.approx(widths[1])


def test_scores_of_whole_sets_are_compared_by_their_own_draws(tmp_path: Path):
    quality = qualities()["fd_scene"]
    points = [a_point("full", 40, fd_scene=1.0), a_point("redi", 20, fd_scene=1.03)]
    folder = with_pictures(
        a_run(tmp_path / "run", points), {e: {"psnr": [1.0, 2.0]} for e in ("full", "redi")}
    )
    shift = np.random.default_rng(0).normal(0, 0.5, 50)  # common to both: it cancels
    shift -= shift.mean()
    draws = {"full": 1.0 + shift, "redi": 1.03 + shift}
    rows = [
        {"entry": e, "quality": "fd_scene", "draw": i, "value": float(v)}
        for e, values in draws.items()
        for i, v in enumerate(values)
    ]
    run = load_run(folder)
    assert compare(run, run.points[1], run.points[0], quality) is None  # nothing paired yet
    pq.write_table(pa.Table.from_pylist(rows), folder / "draws.parquet")
    run = load_run(folder)
    found = compare(run, run.points[1], run.points[0], quality)
    assert found is not None and found.outcome == WORSE
    assert (found.mean, found.low, found.high) == pytest.approx((0.03, 0.03, 0.03))
    assert found.allowed == pytest.approx(0.05) and found.equal  # within 5% of full sampling's


@pytest.mark.parametrize(
    ("content", "said"), [(b"PAR1 no table", "is damaged"), (None, "lacks the column 'noise'")]
)
def test_a_damaged_table_of_pictures_is_one_sentence(
    tmp_path: Path, content: bytes | None, said: str
):
    folder = judged(tmp_path / "run", 1.0).folder
    path = folder / "per_image.parquet"
    if content is None:
        pq.write_table(pq.read_table(path).drop_columns("noise"), path)
    else:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=said) as error:
        verdicts(load_run(folder))
    assert "per_image.parquet" in str(error.value)


def test_verdict_does_not_claim_what_it_cannot_know(tmp_path: Path):
    def told(*points: dict[str, Any]) -> str:
        return verdicts(load_run(a_run(tmp_path / "run", list(points))))[0]

    redi = a_point("redi", 20, 24.1)
    assert told(redi) == (
        "ReDi (ddim, k = 8, v = 28) takes 20 calls; "
        "no run of the same sampler with as many calls stands beside it."
    )
    assert "no run of the same" in told(redi, a_point("plain", 22, 40.0))
    assert "no run of the same" in told(redi, a_point("plain", 20, 40.0, sampler="pndm"))
    assert "at 21 calls it cannot be judged" in told(redi, a_point("plain", 21, 40.0))
    assert "nothing was measured" in told(redi, a_point("plain", 20))
    assert "for want of paired values, in PSNR" in told(redi, a_point("plain", 20, 40.0))
    assert verdicts(load_run(a_run(tmp_path / "none", [a_point("full", 40)]))) == []


# Pareto front


@settings(max_examples=200, deadline=None)
@given(
    points=st.lists(st.tuples(st.integers(0, 6), st.integers(-3, 6)), max_size=14),
    higher=st.booleans(),
)
def test_front_is_what_nothing_dominates(points: list[tuple[int, int]], higher: bool):
    sign = 1 if higher else -1

    def dominates(a: tuple[int, int], b: tuple[int, int]) -> bool:
        return a[0] <= b[0] and sign * a[1] >= sign * b[1] and a != b

    front = pareto_front(points, lambda p: p[0], lambda p: p[1], higher)
    rest = copy.copy(points)
    for point in front:
        rest.remove(point)
    assert [p[0] for p in front] == sorted(p[0] for p in front)
    assert not any(dominates(a, b) for a in points for b in front)
    assert all(any(dominates(a, b) for a in front) for b in rest)


def test_plot_has_a_panel_for_each_metric_that_is_there(tmp_path: Path):
    one = load_run(a_run(tmp_path / "one", [a_point("plain", 20, 40.0)]))
    three = load_run(a_run(tmp_path / "three", usual()))
    bare = load_run(a_run(tmp_path / "bare", [a_point("plain", 20)]))
    assert headline([bare]) == [] and [q.name for q in headline([one])] == ["psnr"]
    for runs, count in (([one], 1), ([one, three], 3)):
        figure = pareto_figure(runs, headline(runs), shown_samplers(runs))
        assert len(figure.axes) == count


def test_a_fitted_sampler_stands_in_the_row_of_its_kb(tmp_path: Path):
    fitted = a_point("olss", 5, 44.0, sampler="olss:levels=even", entry="plain@5:olss:levels=even")
    other = a_point("plain", 5, 43.0, sampler="unipc", entry="plain@5:unipc")
    points = [a_point("full", 40), a_point("plain", 5, 40.0), fitted, other]
    run = load_run(a_run(tmp_path / "run", points))
    assert shown_samplers([run]) == ["ddim"]
    (axis,) = pareto_figure([run], headline([run]), ["ddim"]).axes
    heights = {float(bar.lines[0].get_ydata()[0]) for bar in axis.containers}  # type: ignore[index]
    assert heights == {40.0, 43.0, 44.0}  # the best plain one is UniPC
    titles = [point.title for point in run.points]
    assert titles == ["full sampling", "same sampler, same calls", "OLSS", "plain sampler"]


def test_fitted_samplers_are_called_as_their_methods_are():
    fitted = {n: kind for n, kind in KINDS.items() if issubclass(kind, FittedLevels)}
    assert fitted and {n: method_label(n) for n in fitted} == {
        name: kind.title for name, kind in fitted.items()
    }


def test_best_plain_sampler_is_chosen_anew_at_every_number_of_calls(tmp_path: Path):
    few = [a_point("plain", 5, 40.0), a_point("plain", 5, 42.0), a_point("plain", 8, 45.0)]
    points = load_run(a_run(tmp_path / "run", [*few, a_point("redi", 5, 50.0)])).points
    found = [(p.calls, p.mean("psnr"), p.method) for p in best_plain(points, PSNR)]
    assert found == [(5, 42.0, "best_plain"), (8, 45.0, "best_plain")]


# Sheets


def picture(red: int, side: int = 64) -> np.ndarray:
    image = np.zeros((side, side, 3), np.uint8)
    image[..., 0] = red
    image[0, 0] = (0, 255, 0)
    return image


def test_sheet_shows_each_picture_twice_as_large_pixel_for_pixel(tmp_path: Path):
    rows = [
        SheetRow("a small red apple", {"full": picture(10), "redi": picture(20)}),
        SheetRow("a boat " * 40, {"full": picture(30)}, {"full": "PSNR 24.1\na neighbour " * 3}),
        SheetRow("x" * 60, {"redi": picture(40)}, {"redi": "left-hand " * 9}),
    ]
    sheet(rows, tmp_path / "sheet.png", ["full", "redi"], METHODS)
    page = np.asarray(Image.open(tmp_path / "sheet.png").convert("RGB")).astype(int)
    left = MARGIN + PROMPT_WIDTH + GAP
    assert page.shape[1] == left + 2 * 128 + GAP + MARGIN
    for red, x in ((10, left), (20, left + 128 + GAP), (30, left), (40, left + 128 + GAP)):
        found = np.argwhere((page == (red, 0, 0)).all(2) & (np.arange(page.shape[1]) >= x))
        top = found[:, 0].min()
        block = page[top : top + 128, x : x + 128]
        assert (block[:2, :2] == (0, 255, 0)).all()
        assert (block.reshape(-1, 3) == (red, 0, 0)).all(1).sum() == 128 * 128 - 4
    assert (page[:, -MARGIN:] == 255).all() and (page[-MARGIN:] == 255).all()
    assert (page[:, MARGIN : MARGIN + PROMPT_WIDTH] < 100).any()


@pytest.mark.parametrize(
    ("rows", "columns", "said"),
    [
        ([SheetRow("a", {"x": picture(1)})], [], "columns is empty"),
        ([SheetRow("a", {"x": picture(1)})], ["y"], "no picture for columns"),
        ([], ["x"], "no picture for columns"),
        ([SheetRow("a", {"x": picture(1) / 255})], ["x"], "give uint8"),
        (
            [SheetRow("a", {"x": picture(1), "y": picture(1, 32)})],
            ["x", "y"],
            "pictures of one size",
        ),
    ],
)
def test_sheet_refuses_what_it_cannot_draw(
    tmp_path: Path, rows: list[SheetRow], columns: list[str], said: str
):
    with pytest.raises(UsageError, match=said):
        sheet(rows, tmp_path / "sheet.png", columns, {})


# Summary


def test_summary_holds_every_point_of_every_run(tmp_path: Path):
    a_run(tmp_path / "v=28", usual())
    a_run(tmp_path / "v=33", [*usual()[:2], a_point("redi", 15, 22.0, value_step=33)])
    pndm = [point | {"sampler": "pndm"} for point in usual(20.0)]
    a_run(tmp_path / "more" / "pndm", pndm)
    paths = summarise(tmp_path)
    assert [path.name for path in paths] == ["points.parquet", "summary.csv", "summary.md"]

    rows = pq.read_table(paths.points).to_pylist()
    assert len(rows) == 11 and {row["experiment"] for row in rows} == {tmp_path.name}
    assert {row["run"] for row in rows} == {"more/pndm", "v=28", "v=33"}
    (late,) = [row for row in rows if row["value_step"] == 33]
    assert (late["run"], late["psnr"], late["psnr_low"]) == ("v=33", 22.0, 21.7)
    assert late["clip_score"] is None and (late["key_step"], late["calls"]) == (8, 15.0)
    redi = next(row for row in rows if row["method"] == "redi" and row["run"] == "v=28")
    assert redi["prompt_fidelity.object_high"] == pytest.approx(0.9)
    with open(paths.csv, newline="") as file:
        told = list(csv.DictReader(file))
    assert [{k: v for k, v in row.items() if v} for row in told] == [
        {k: str(v) for k, v in row.items() if v is not None} for row in rows
    ]

    text = paths.markdown.read_text("utf-8")
    ddim, other = text.split("### ddim")[1].split("### pndm")
    assert ddim.count("| same sampler, same calls | 20 |") == 1  # both runs hold it
    assert text.count("ReDi (ddim") == 2 and text.count("ReDi (pndm") == 1
    assert "![pareto](pareto.png)" in text and Image.open(tmp_path / "pareto.png").width > 1000
    assert other and summarise(tmp_path) == paths and paths.markdown.read_text("utf-8") == text


def test_what_strangers_wrote_does_nothing_in_a_report(tmp_path: Path):
    """Names from foreign results reach HTML, Markdown and CSV as text."""
    evil = "<img src=x onerror=alert(1)>|[a](javascript:b)\x1b[2J"
    points = [a_point("plain", 20, 30.0, sampler=evil), a_point("=1+1", 20, 31.0, sampler=evil)]
    folder = a_run(tmp_path / "run", points, config={"note": "</pre><script>x</script>"})
    paths = summarise(folder)
    text, page = paths.markdown.read_text("utf-8"), html_report(folder).read_text("utf-8")
    for written in (text, page):
        assert "<img src=x" not in written and "<script>x" not in written and "\x1b" not in written
    assert "](javascript:b)" not in text.replace("\\]", "") and "onerror" in page
    with open(paths.csv, newline="") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    assert "'=1+1" in cells and "=1+1" not in cells


def test_summary_of_a_single_run(run: Path):
    paths = summarise(run)
    assert pq.read_table(paths.points).to_pylist()[0]["run"] == "one"
    assert "1 finished run, 64 pictures per method" in paths.markdown.read_text("utf-8")
    assert [r.name for r in load_runs(run)] == ["one"]
