"""Loggers, offline: what was written is read back."""

from __future__ import annotations

import csv
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from redi.config import LoggerConfig
from redi.errors import UsageError
from redi.report.examples import Example
from redi.report.loggers import COLUMNS, JOB_TYPE, check_logger, flat_metrics, log_point
from redi.report.runs import load_run
from tests.test_report import a_run, usual, with_pictures
from tests.wandb_file import read_back

WANDB = LoggerConfig("wandb", project="redi-test", mode="offline")


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_SILENT", "true")


def logged(config: LoggerConfig, folder: Path, shift: float = 0.0) -> dict[str, float]:
    run = load_run(a_run(folder, usual(shift)))
    with_pictures(folder, {"redi": {"key_distance": [1.5, 2.5]}})
    pictures = {m: np.full((8, 8, 3), i, np.uint8) for i, m in enumerate(("full", "redi"))}
    log_point(config, run, [Example(0, 0, "a cat", pictures)], "| a table |")
    return flat_metrics(run)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (LoggerConfig("mlflow"), "logger='mlflow' is unknown"),
        (LoggerConfig("csv", project="p"), "logger.project=p does nothing with logger=csv"),
        (LoggerConfig("wandb", mode="maybe"), "logger.mode='maybe'"),
    ],
)
def test_bad_loggers_are_refused(config: LoggerConfig, words: str):
    with pytest.raises(UsageError) as error:
        check_logger(config)
    assert words in str(error.value)


@pytest.mark.parametrize("name", ["wandb", "tensorboard"])
def test_a_missing_package_gives_one_sentence(name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    mode = "offline" if name == "wandb" else None
    with pytest.raises(UsageError, match=f"pip install {name} or use logger=csv"):
        check_logger(LoggerConfig(name, mode=mode))


def test_csv_holds_every_number_and_none_holds_nothing(tmp_path: Path):
    expected = logged(LoggerConfig(), tmp_path / "run")
    logged(LoggerConfig(), tmp_path / "run")  # again: replaced, not appended
    (row,) = csv.DictReader((tmp_path / "run" / "logs" / "metrics.csv").open())
    assert {k: float(v) for k, v in row.items() if k != "step"} == expected
    logged(LoggerConfig("none"), tmp_path / "other")
    assert not (tmp_path / "other" / "logs").exists()


def test_tensorboard_reads_back(tmp_path: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    expected = logged(LoggerConfig("tensorboard"), tmp_path / "run")
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    for name, value in expected.items():
        (event,) = events.Scalars(name)
        assert event.value == pytest.approx(value, rel=1e-6)
    assert set(events.Tags()["images"]) == {"full sampling/0", "ReDi/0"}
    assert (tmp_path / "run" / "logs" / "metrics.csv").is_file()


def test_wandb_offline_points_read_back_and_never_merge(tmp_path: Path):
    expected = [logged(WANDB, tmp_path / "sweep" / f"p{i}", shift=i) for i in range(2)]
    ids = set()
    for i, metrics in enumerate(expected):
        (run,) = (tmp_path / "sweep" / f"p{i}" / "wandb").glob("offline-run-*")
        ids.add(run.name.rsplit("-", 1)[1])
        records = read_back(next(run.glob("*.wandb")))
        assert records["group"] == "sweep" and records["job_type"] == JOB_TYPE
        assert records["config"]["seed"] == 0
        assert {k: records["summary"][k] for k in metrics} == pytest.approx(metrics)
        assert records["exit"] == 0  # finished
        (table,) = run.glob("files/media/table/examples*.table.json")
        content = json.loads(table.read_text())
        assert content["columns"] == list(COLUMNS)
        prompt, full, redi, neighbour, distance = content["data"][0]
        assert (prompt, neighbour, distance) == ("a cat", None, 1.5) and full and redi
    assert len(ids) == 2


def test_wandb_finishes_when_logging_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import redi.report.loggers as loggers

    def fail(*_: object) -> None:
        raise RuntimeError("disk full")

    monkeypatch.setattr(loggers, "_row", fail)
    with pytest.raises(RuntimeError, match="disk full"):
        logged(WANDB, tmp_path / "run")
    import wandb

    assert wandb.run is None or wandb.run.project != WANDB.project
    again = logged_after(monkeypatch, tmp_path / "again")
    (run,) = again.glob("offline-run-*/*.wandb")
    assert read_back(run)["exit"] == 0  # a failed point does not swallow the next one


def logged_after(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Path:
    monkeypatch.undo()
    monkeypatch.setenv("WANDB_SILENT", "true")
    logged(WANDB, folder)
    return folder / "wandb"
