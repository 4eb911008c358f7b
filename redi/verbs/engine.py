"""The Lightning Trainer: one engine from a laptop to a cluster, with quiet defaults."""

from __future__ import annotations

import logging
import warnings
from typing import Any

from lightning import Callback, Trainer
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.callbacks.progress.rich_progress import RichProgressBarTheme

from redi.config import TrainerConfig
from redi.verbs.devices import check_trainer


class ProgressBar(RichProgressBar):
    """Rich's bar with the time left, under a name that says what is being made."""

    def __init__(self, title: str) -> None:
        super().__init__(leave=True, theme=RichProgressBarTheme(metrics_format=".4f"))
        self.title = title

    @property
    def predict_description(self) -> str:
        return self.title

    @property
    def test_description(self) -> str:
        return self.title


def progress_bar(title: str) -> ProgressBar:
    """A progress bar for one piece of work."""
    return ProgressBar(title)


def trainer_from(config: TrainerConfig, callbacks: list[Callback], **options: Any) -> Trainer:
    """A Trainer without the files and messages that redi writes itself."""
    check_trainer(config)
    strategy = config.strategy
    if strategy == "auto" and config.devices > 1 and config.num_nodes == 1:
        strategy = "ddp_spawn"
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    defaults: dict[str, Any] = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_model_summary": False,
    }
    return Trainer(
        accelerator=config.accelerator,
        devices=config.devices,
        num_nodes=config.num_nodes,
        strategy=strategy,
        callbacks=callbacks,
        **{**defaults, **options},
    )
