"""A finished point in the loggers that people watch: CSV, TensorBoard, Weights & Biases."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from redi.config import LoggerConfig
from redi.errors import UsageError
from redi.report.labels import METHODS
from redi.report.results import Results

LOGGERS = ("csv", "wandb", "tensorboard", "none")
JOB_TYPE = "evaluate"
COLUMNS = ("prompt", "full", "redi", "neighbour", "distance")


@dataclass(frozen=True)
class Example:
    """One prompt for the image table: pictures uint8 (H, W, 3) by method, key distance of ReDi."""

    prompt: str
    pictures: Mapping[str, np.ndarray]
    distance: float | None


def check_logger(config: LoggerConfig) -> None:
    """Refuse an unknown logger, a missing package, and options that would do nothing."""
    if config.name not in LOGGERS:
        raise UsageError(f"logger={config.name!r} is unknown; use one of {', '.join(LOGGERS)}")
    if config.name in ("wandb", "tensorboard") and importlib.util.find_spec(config.name) is None:
        raise UsageError(
            f"logger={config.name} needs the package {config.name}: "
            f"pip install 'redi[{config.name}]' or use logger=csv"
        )
    for name in ("project", "mode", "group"):
        if getattr(config, name) is not None and config.name != "wandb":
            raise UsageError(
                f"logger.{name}={getattr(config, name)} does nothing with logger={config.name}: "
                "use logger=wandb"
            )
    if config.name == "wandb" and config.mode not in ("offline", "online"):
        raise UsageError(f"logger.mode={config.mode!r} is unknown; use one of offline, online")


def flat_metrics(results: Results) -> dict[str, float]:
    """`method/metric` to value, interval bounds as `metric_low` and `metric_high`."""
    flat = {}
    for point in results.points:
        flat[f"{point.method}/nfe"] = point.nfe
        for name, value in point.values.items():
            flat[f"{point.method}/{name}"] = value.mean
            if value.low is not None and value.high is not None:
                flat[f"{point.method}/{name}_low"] = value.low
                flat[f"{point.method}/{name}_high"] = value.high
    return flat


def log_point(
    config: LoggerConfig, folder: Path, results: Results, examples: Sequence[Example], table: str
) -> None:
    """Hand a finished point to the configured loggers; what was opened is closed in any case.

    `table` is its Markdown table. Files go below `folder`: `logs/` (CSV), `tensorboard/`, `wandb/`.
    """
    if config.name == "none":
        return
    metrics = flat_metrics(results)
    _csv(folder, results, metrics)
    if config.name == "tensorboard":
        _tensorboard(folder, results, metrics, examples, table)
    if config.name == "wandb":
        _wandb(config, folder, results, metrics, examples)


def _csv(folder: Path, results: Results, metrics: dict[str, float]) -> None:
    from lightning.pytorch.loggers import CSVLogger

    (folder / "logs" / "metrics.csv").unlink(missing_ok=True)
    logger = CSVLogger(folder, name="logs", version="")
    logger.log_hyperparams(results.config)
    logger.log_metrics({**metrics}, step=0)
    logger.finalize("success")


def _tensorboard(
    folder: Path,
    results: Results,
    metrics: dict[str, float],
    examples: Sequence[Example],
    table: str,
) -> None:
    from lightning.pytorch.loggers import TensorBoardLogger

    logger = TensorBoardLogger(folder, name="tensorboard", version="")
    try:
        logger.log_hyperparams(results.config)
        logger.log_metrics(metrics, step=0)
        writer = logger.experiment
        writer.add_text("table", table, 0)
        for i, example in enumerate(examples):
            for method, picture in example.pictures.items():
                writer.add_image(f"{METHODS[method]}/{i}", picture, 0, dataformats="HWC")
    finally:
        logger.finalize("success")
        logger.experiment.close()


def _wandb(
    config: LoggerConfig,
    folder: Path,
    results: Results,
    metrics: dict[str, float],
    examples: Sequence[Example],
) -> None:
    """A run of its own for every point, even where another one is open in this process."""
    import wandb
    from lightning.pytorch.loggers import WandbLogger

    run = wandb.init(
        dir=folder,
        project=config.project,
        group=config.group or folder.resolve().parent.name,
        job_type=JOB_TYPE,
        name=folder.name,
        config={**results.config, "provenance": results.provenance},
        mode="online" if config.mode == "online" else "offline",
        reinit="create_new",
    )
    try:
        logger = WandbLogger(experiment=run)
        logger.log_metrics(metrics)
        run.summary.update(metrics)
        rows = [_row(wandb, example) for example in examples]
        logger.log_table("examples", columns=list(COLUMNS), data=rows)
    finally:
        run.finish()


def _row(wandb: Any, example: Example) -> list[Any]:
    pictures = [
        wandb.Image(example.pictures[name]) if name in example.pictures else None
        for name in COLUMNS[1:-1]
    ]
    return [example.prompt, *pictures, example.distance]
