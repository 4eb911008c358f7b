"""A collection reads as the sweep that it was made from."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from redi.errors import UsageError
from redi.report import collected
from redi.report.claim import claims
from redi.report.collected import collect
from redi.report.html import html_report
from redi.report.runs import Run, load_runs
from tests.test_html import Page, swept
from tests.test_report import a_point, a_run

FILES = ["per_image.parquet", "points.parquet", "runs.json", "sheet.png"]


def told(runs: list[Run]) -> list[tuple]:
    """All that reports read of runs, without the folders."""
    return [
        (
            run.name,
            run.provenance,
            run.config,
            run.reference,
            [
                (p.run, p.entry, p.row().items() - {("experiment", p.experiment)})
                for p in run.points
            ],
            {
                p.entry: [
                    None if values is None else values.tolist()
                    for values in (
                        run.pictures.by_prompt(p.entry, "clip_score"),
                        run.pictures.draws(p.entry, "fd_scene"),
                    )
                ]
                for p in run.points
            },
        )
        for run in runs
    ]


def test_a_collection_is_the_sweep(tmp_path: Path):
    root, out = swept(tmp_path / "sweep", loss=0.3), tmp_path / "kept"
    draws = {"entry": ["redi"] * 5, "quality": ["fd_scene"] * 5, "value": list(np.arange(5.0))}
    pq.write_table(pa.table(draws), root / "v28" / "draws.parquet")
    collect(root, out)
    assert sorted(path.name for path in out.iterdir()) == sorted([*FILES, "draws.parquet"])
    runs, kept = load_runs(root), load_runs(out)
    assert told(kept) == told(runs)
    assert [c.share for c in claims(kept)] == [c.share for c in claims(runs)]
    assert kept[1].pictures.draws("redi", "fd_scene").tolist() == [0, 1, 2, 3, 4]
    assert kept[0].pictures.draws("redi", "fd_scene") is None  # of no other run
    assert [bool(run.pictures) for run in kept] == [True] * 3
    rows = pq.read_table(out / "points.parquet").to_pylist()
    assert [(r["run"], r["entry"]) for r in rows] == [
        (p.run, p.entry) for r in runs for p in r.points
    ]
    table = {tuple(row) for row in Page(html_report(root).read_text()).rows if "ReDi" in row}
    assert table == {tuple(r) for r in Page(html_report(out).read_text()).rows if "ReDi" in r}


def test_the_sheet_that_is_kept_is_of_the_run_with_the_most_pictures(tmp_path: Path):
    root, out = tmp_path / "sweep", tmp_path / "kept"
    for name, count in (("few", 64), ("many", 128), ("none", 512)):
        folder = a_run(root / name, [a_point("redi", 20, 20.0, count=count)])
        if name != "none":
            Image.new("RGB", (30, 20), (count, 0, 0)).save(folder / "sheet.png")
    collect(root, out)
    sheets = {run.name: run.sheet for run in load_runs(out)}
    assert sheets == {"few": None, "many": out / "sheet.png", "none": None}
    assert (out / "sheet.png").read_bytes() == (root / "many" / "sheet.png").read_bytes()
    (out / "sheet.png").unlink()
    assert [run.sheet for run in load_runs(out)] == [None] * 3


def test_a_collection_grows_and_no_run_is_replaced(tmp_path: Path):
    root, out = swept(tmp_path / "sweep"), tmp_path / "kept"
    collect(root, out)
    more = a_run(tmp_path / "more" / "v40", [a_point("redi", 5, 10.0)])
    assert [run.name for run in collect(more.parent, out)] == ["v20", "v28", "v36", "v40"]
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert told(load_runs(out))[:3] == told(load_runs(root))
    collect(more.parent, out)  # the same again
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    a_run(tmp_path / "other" / "v40", [a_point("redi", 5, 11.0)])
    with pytest.raises(UsageError, match="another run named 'v40'"):
        collect(tmp_path / "other", out)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    again = tmp_path / "again"
    collect(out, again)  # a collection of a collection
    assert told(load_runs(again)) == told(load_runs(out))


def test_a_run_of_its_own_goes_before_a_collected_one(tmp_path: Path):
    out = tmp_path / "kept"
    collect(a_run(tmp_path / "a" / "v1", [a_point("redi", 5, 10.0)]).parent, out)
    a_run(out / "v1", [a_point("redi", 5, 12.0)])
    (run,) = load_runs(out)
    assert run.points[0].mean("psnr") == 12.0
    assert [run.name for run in load_runs(tmp_path)] == ["a/v1", "kept/v1"]


def test_one_run_and_folders_of_the_machine(tmp_path: Path):
    config = {"run_dir": str(tmp_path / "secret" / "run"), "kb": {"dirs": [str(tmp_path / "kb")]}}
    folder = a_run(tmp_path / "run", [a_point("redi", 5, 10.0)], config=config)
    collect(folder, tmp_path / "kept")
    text = (tmp_path / "kept" / "runs.json").read_text()
    assert str(tmp_path) not in text and "secret" not in text
    (run,) = load_runs(tmp_path / "kept")
    assert run.name == "kept" and run.config == {"run_dir": "run", "kb": {"dirs": ["kb"]}}


@pytest.mark.parametrize("file", ["per_image.parquet", "points.parquet", "sheet.png", "runs.json"])
def test_an_interrupted_collection_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str
):
    root, out = swept(tmp_path / "sweep"), tmp_path / "kept"
    collect(a_run(tmp_path / "first" / "v1", [a_point("redi", 5, 10.0)]).parent, out)
    before = told(load_runs(out))
    durable, plain = collected.write_durably, collected.write_json

    def stop(path: Path, *rest: object) -> None:
        if path.name == file:
            raise KeyboardInterrupt
        (plain if path.name == "runs.json" else durable)(path, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(collected, "write_durably", stop)
    monkeypatch.setattr(collected, "write_json", stop)
    with pytest.raises(KeyboardInterrupt):
        collect(root, out)
    assert told(load_runs(out)) == before
    monkeypatch.undo()
    collect(root, out)
    assert told(load_runs(out))[1:] == told(load_runs(root))


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ('{"schema": 7, "runs": []}', "schema=7 in .* collect the runs again"),
        ('{"schema": 1, "runs": 3}', "collect the runs again"),
        ('{"schema": 1, "runs": [{"points": []}]}', "a run without a name"),
        ('{"schema": 1, "runs": [{"name": "a", "schema": 1}]}', "schema=1 in .* run the evalua"),
        ('{"schema": 1, "runs": []}', "holds no results.json"),
        ("{", "runs.json"),
    ],
)
def test_what_is_no_collection_is_refused(tmp_path: Path, text: str, match: str):
    (tmp_path / "runs.json").write_text(text)
    with pytest.raises(UsageError, match=match):
        load_runs(tmp_path)


def test_the_command(tmp_path: Path):
    root = swept(tmp_path / "sweep")
    command = [sys.executable, "-c", "from redi.cli import main; main()", "collect"]
    done = subprocess.run([*command, root, tmp_path / "out"], capture_output=True, text=True)
    assert done.returncode == 0 and "3 runs in" in done.stdout, done.stderr
    assert len(json.loads((tmp_path / "out" / "runs.json").read_text())["runs"]) == 3
    done = subprocess.run([*command, root], capture_output=True, text=True)
    assert done.returncode == 2 and "redi collect DIR OUT" in done.stderr
