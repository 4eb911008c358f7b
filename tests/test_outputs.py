"""A run directory is a function of its results, and a metric is one class."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from rich.console import Console

from redi.config import (
    Config,
    KBConfig,
    LoggerConfig,
    MetricsConfig,
    ModelConfig,
    SamplerConfig,
    SamplingConfig,
)
from redi.errors import UsageError
from redi.files import LOCK, locked_alone
from redi.metrics.base import METRICS, PerPicture, metric, single
from redi.metrics.batch import BatchResult
from redi.report import outputs
from redi.report.points import COLUMNS
from redi.report.runs import load_run
from redi.verbs import run as run_module
from redi.verbs.run import main_job
from tests.wandb_file import read_back

QUIET = Console(quiet=True)
MADE = ("points.parquet", "table.md", "pareto.png", "sheet.png", "logs/metrics.csv")


@pytest.fixture(scope="module")
def config(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Config]:
    """A tiny run with a metric of this file's own, beside the shipped ones."""

    @metric
    class Brightness(PerPicture):
        name = "brightness"
        qualities = single("brightness", "mean brightness", unit="levels")

        def values(self, batch: BatchResult, entry: str) -> np.ndarray:
            return batch.images[entry].double().mean((1, 2, 3)).numpy()

    root = tmp_path_factory.mktemp("outputs")
    config = Config(
        sampler=SamplerConfig(name="ddim"),
        sampling=SamplingConfig(steps=10, guidance_scale=2.5),
        model=ModelConfig(path=str(tiny_folder), batch_size=4),
        kb=KBConfig(root=str(root / "kb"), size=4, key_step=2, shard_size=4),
        metrics=MetricsConfig(hooks=["cost", "psnr", "retrieval", "brightness"], resamples=50),
        baselines=["plain", "neighbour"],
        reference_root=str(root / "reference"),
    )
    config.data.num_queries, config.report.sheet_rows = 3, 2
    yield config
    del METRICS["brightness"]


@pytest.fixture(scope="module")
def finished(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return main_job(config, tmp_path_factory.mktemp("runs") / "done", True, QUIET)


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / finished.name))


def test_a_metric_is_one_class(finished: Path):
    """Its columns reach the configuration, the results, the files and the printed table."""
    for point in load_run(finished).points:
        value = point.values["brightness"]
        assert value.low is not None and value.high is not None
        assert value.low <= value.mean <= value.high
    assert "| mean brightness (levels) |" in (finished / "table.md").read_text()
    assert "psnr" in pq.read_table(finished / "points.parquet").column_names
    rows = pq.read_table(finished / "per_image.parquet").to_pylist()
    full = [row["brightness"] for row in rows if row["method"] == "full"]
    assert np.mean(full) == pytest.approx(load_run(finished).points[0].mean("brightness"))


def test_every_table_says_what_a_row_is(finished: Path):
    results = json.loads((finished / "results.json").read_text())
    points = pq.read_table(finished / "points.parquet").to_pylist()
    assert results["schema"] == 2 and len(points) == len(results["points"]) == 4
    assert set(COLUMNS) <= set(points[0]) and {"psnr", "psnr_low", "psnr_high"} <= set(points[0])
    redi = next(point for point in points if point["method"] == "redi")
    expected = {"sampler": "ddim", "steps": 10, "key_step": 2, "value_step": 7, "kb_size": 4,
                "neighbours": 1, "estimator": "paper", "noise": "shared", "guidance_scale": 2.5,
                "seed": 0, "calls": 5.0, "count": 3}  # fmt: skip
    assert {name: redi[name] for name in expected} == expected
    rows = pq.read_table(finished / "per_image.parquet").to_pylist()
    mine = [row for row in rows if row["entry"] == redi["entry"]]
    assert [(row["query"], row["noise"], row["calls"]) for row in mine] == [
        (i, 0, 5.0) for i in range(3)
    ]
    assert {row["key_step"] for row in mine} == {2} and mine[0]["neighbour_prompt"]


def test_what_is_missing_beside_results_is_made_again(config: Config, copy: Path):
    before = {name: (copy / name).read_bytes() for name in MADE}
    stamp = (copy / "results.json").stat().st_mtime_ns
    for name in MADE:
        (copy / name).unlink()
    out = io.StringIO()
    main_job(config, copy, False, Console(file=out, width=200))
    assert "Already finished" in out.getvalue() and "brightness" in out.getvalue()
    assert (copy / "results.json").stat().st_mtime_ns == stamp
    for name in ("points.parquet", "table.md", "sheet.png"):
        assert (copy / name).read_bytes() == before[name], name
    assert all((copy / name).is_file() for name in MADE)


def test_a_stop_after_the_results_loses_nothing(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(run_module, "complete", stopped)
    with pytest.raises(KeyboardInterrupt):
        main_job(config, tmp_path / "run", True, QUIET)
    monkeypatch.undo()
    assert not any((tmp_path / "run" / name).exists() for name in MADE)
    main_job(config, tmp_path / "run", True, QUIET)
    assert all((tmp_path / "run" / name).is_file() for name in MADE)


def test_a_logger_that_fails_is_one_sentence_and_is_asked_again(
    config: Config, copy: Path, monkeypatch: pytest.MonkeyPatch
):
    def broken(*_: object) -> None:
        raise RuntimeError("connection lost\nstack of the package")

    shutil.rmtree(copy / "logs")
    (copy / "table.md").unlink()
    monkeypatch.setattr(outputs, "log_point", broken)
    with pytest.raises(UsageError, match="logger=csv failed .connection lost.*safe in"):
        main_job(config, copy, False, QUIET)
    assert (copy / "table.md").is_file() and not (copy / "logs").exists()
    monkeypatch.undo()
    main_job(config, copy, False, QUIET)
    stamp = (copy / "logs" / "metrics.csv").stat().st_mtime_ns
    main_job(config, copy, False, QUIET)  # logged once
    assert (copy / "logs" / "metrics.csv").stat().st_mtime_ns == stamp


def numbers(folder: Path) -> dict[str, float]:
    """`entry/metric` to value, as results.json has them."""
    results = json.loads((folder / "results.json").read_text())
    measured = {
        f"{point['entry']}/{name}": value
        for point in results["points"]
        for name, value in point.items()
        if name == "calls" or name not in results["settings"]
    }
    return {name: value for name, value in measured.items() if isinstance(value, int | float)}


def test_a_run_logs_its_results_to_weights_and_biases(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("WANDB_SILENT", "true")
    logger = LoggerConfig("wandb", project="redi-test", mode="offline", group="a group")
    folder = main_job(replace(config, logger=logger), tmp_path / "run", True, QUIET)
    (file,) = folder.glob("wandb/offline-run-*/*.wandb")
    logged = read_back(file)
    results, expected = json.loads((folder / "results.json").read_text()), numbers(folder)
    assert "redi/psnr_low" in expected and "full/brightness" in expected
    assert expected.items() <= logged["summary"].items()
    assert logged["history"][0] == expected  # what follows is the table of pictures
    assert results["config"].items() <= logged["config"].items()
    assert logged["config"]["provenance"] == results["provenance"]
    assert logged["config"]["logger"]["group"] == logged["group"] == "a group"
    assert (logged["name"], logged["exit"]) == ("run", 0)


def test_a_run_logs_its_results_to_tensorboard(config: Config, tmp_path: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = replace(config, logger=LoggerConfig("tensorboard"))
    folder = main_job(run, tmp_path / "run", True, QUIET)
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    tags = events.Tags()
    found = {name: [event.value for event in events.Scalars(name)] for name in tags["scalars"]}
    expected = {name: [np.float32(value)] for name, value in numbers(folder).items()}
    assert expected.items() <= found.items() and not {*found} - {*expected} - {"hp_metric"}
    hyperparameters = yaml.safe_load((folder / "tensorboard" / "hparams.yaml").read_text())
    assert hyperparameters == json.loads((folder / "results.json").read_text())["config"]
    (text,) = events.Tensors("table/text_summary")
    assert text.tensor_proto.string_val[0].decode() == (folder / "table.md").read_text()
    assert len(tags["images"]) == 2 * len(load_run(folder).points)


def test_two_runs_never_mix_in_one_directory(config: Config, copy: Path, tmp_path: Path):
    config.seed = 1
    try:
        with pytest.raises(UsageError, match="already holds another run"):
            main_job(config, copy, False, QUIET)
        (copy / "results.json").unlink()  # stopped before it was finished
        with locked_alone(copy / LOCK, "busy"):
            with pytest.raises(UsageError, match="written by another process"):
                main_job(config, copy, False, QUIET)
        config.report.sheet_rows = 0
        main_job(config, copy, False, QUIET)
        assert not (copy / "sheet.png").exists() and not (copy / "examples.parquet").exists()
    finally:
        config.seed, config.report.sheet_rows = 0, 2
