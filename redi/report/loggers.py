"""A finished point in the loggers that people watch: CSV, TensorBoard, Weights & Biases."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from netrc import NetrcParseError, netrc
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from redi.config import LoggerConfig
from redi.errors import UsageError, unknown

if TYPE_CHECKING:
    from redi.report.examples import Example
    from redi.report.runs import Run

LOGGERS = ("csv", "wandb", "tensorboard", "none")
JOB_TYPE = "evaluate"
COLUMNS = ("prompt", "full", "redi", "neighbour", "distance")


def check_logger(config: LoggerConfig) -> None:
    """Refuse an unknown logger, a missing package, and options that would do nothing."""
    if config.name not in LOGGERS:
        raise unknown(f"logger={config.name!r}", config.name, LOGGERS)
    if config.name in ("wandb", "tensorboard") and importlib.util.find_spec(config.name) is None:
        raise UsageError(
            f"logger={config.name} needs the package {config.name}: "
            f"pip install {config.name} or use logger=csv"
        )
    for name in ("project", "mode", "group"):
        if getattr(config, name) is not None and config.name != "wandb":
            raise UsageError(
                f"logger.{name}={getattr(config, name)} does nothing with logger={config.name}: "
                "use logger=wandb"
            )
    if config.name == "wandb":
        if config.mode not in ("offline", "online"):
            raise unknown(f"logger.mode={config.mode!r}", str(config.mode), ("offline", "online"))
        if config.mode == "online" and not logged_in():
            raise UsageError(
                "logger.mode=online finds no login: run 'wandb login', set WANDB_API_KEY, or use "
                "logger.mode=offline"
            )


def logged_in() -> bool:
    """Whether Weights & Biases would find a key: in the environment or in the netrc file."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname
    try:
        file = netrc(os.environ.get("NETRC") or str(Path.home() / ".netrc"))
    except (OSError, NetrcParseError):
        return False
    return host in file.hosts


def flat_metrics(run: Run) -> dict[str, float]:
    """`entry/metric` to value, interval bounds as `metric_low` and `metric_high`."""
    flat = {}
    for point in run.points:
        flat[f"{point.entry}/calls"] = point.calls
        for name, value in point.values.items():
            flat[f"{point.entry}/{name}"] = value.mean
            if value.low is not None and value.high is not None:
                flat[f"{point.entry}/{name}_low"] = value.low
                flat[f"{point.entry}/{name}_high"] = value.high
    return flat


def log_point(config: LoggerConfig, run: Run, examples: Sequence[Example], table: str) -> None:
    """Hand a finished point to the configured loggers; what was opened is closed in any case.

    `table` is its Markdown table. Files go below `folder`: `logs/` (CSV), `tensorboard/`, `wandb/`.
    """
    if config.name == "none":
        return
    metrics = flat_metrics(run)
    _csv(run, metrics)
    if config.name == "tensorboard":
        _tensorboard(run, metrics, examples, table)
    if config.name == "wandb":
        _wandb(config, run, metrics, examples)


def _csv(run: Run, metrics: dict[str, float]) -> None:
    from lightning.pytorch.loggers import CSVLogger

    (run.folder / "logs" / "metrics.csv").unlink(missing_ok=True)
    logger = CSVLogger(run.folder, name="logs", version="")
    logger.log_hyperparams(run.config)
    logger.log_metrics({**metrics}, step=0)
    logger.finalize("success")


def _tensorboard(
    run: Run, metrics: dict[str, float], examples: Sequence[Example], table: str
) -> None:
    from lightning.pytorch.loggers import TensorBoardLogger

    logger = TensorBoardLogger(run.folder, name="tensorboard", version="")
    try:
        logger.log_hyperparams(run.config)
        logger.log_metrics(metrics, step=0)
        writer = logger.experiment
        writer.add_text("table", table, 0)
        titles = {p.entry: p.label or p.title for p in run.points}
        for i, example in enumerate(examples):
            for entry, picture in example.pictures.items():
                title = titles.get(entry, entry)
                writer.add_image(f"{title}/{i}", picture, 0, dataformats="HWC")
    finally:
        logger.finalize("success")
        logger.experiment.close()


def _wandb(
    config: LoggerConfig, run: Run, metrics: dict[str, float], examples: Sequence[Example]
) -> None:
    """A run of its own for every point, even where another one is open in this process."""
    import wandb
    from lightning.pytorch.loggers import WandbLogger

    opened = wandb.init(
        dir=run.folder,
        project=config.project,
        group=config.group or run.folder.resolve().parent.name,
        job_type=JOB_TYPE,
        name=run.folder.name,
        config={**run.config, "provenance": run.provenance},
        mode="online" if config.mode == "online" else "offline",
        reinit="create_new",
    )
    try:
        logger = WandbLogger(experiment=opened)
        logger.log_metrics(metrics)
        opened.summary.update(metrics)
        rows = [_row(wandb, run, example) for example in examples]
        logger.log_table("examples", columns=list(COLUMNS), data=rows)
    finally:
        opened.finish()


def _row(wandb: Any, run: Run, example: Example) -> list[Any]:
    """Prompt, one picture for each of the methods that COLUMNS names, key distance of ReDi."""
    entries = {p.method: p.entry for p in reversed(run.points)}
    pictures = [example.pictures.get(entries.get(name, "")) for name in COLUMNS[1:-1]]
    distance = None
    if run.pictures and "redi" in entries:
        place = entries["redi"], example.query, example.noise
        distance = run.pictures.value(*place, "key_distance")
    return [example.prompt, *(None if p is None else wandb.Image(p) for p in pictures), distance]
