"""What the three training stages of the embedded model share: schedule, data windows, logging."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from redi.data.pixels import to_pixels
from redi.embedded.stream import SceneBatch, SceneStream, loader


@dataclass
class StageConfig:
    """Length and optimiser of one training stage."""

    steps: int = 2000
    batch_size: int = 64  # per device
    learning_rate: float = 5e-4
    warmup_steps: int = 100
    weight_decay: float = 0.01
    steps_per_epoch: int = 100  # a checkpoint and a sample sheet are written after each epoch


class TrainingStage(LightningModule):
    """One network trained on the endless stream of scenes.

    Data are addressed by the global step and noise is seeded by it, so a run that was stopped and
    resumed from its last checkpoint sees what an uninterrupted run would have seen.
    """

    #: probability, per attribute, that a training caption leaves it unsaid
    omit: dict[str, float] = {}

    def __init__(self, config: StageConfig, seed: int, sheets: Path | None = None) -> None:
        super().__init__()
        self.config, self.seed, self.sheets = config, seed, sheets

    def loss(self, batch: SceneBatch, generator: torch.Generator) -> Tensor:
        """Training loss of one batch; all randomness comes from `generator`."""
        raise TypeError(f"{type(self).__name__} does not define a loss")

    def sheet(self) -> np.ndarray | None:
        """A picture of the current quality, uint8 (H, W, 3), or nothing."""
        return None

    def training_step(self, batch: SceneBatch, batch_index: int) -> Tensor:
        draw = self.global_step * self.trainer.world_size + self.trainer.global_rank
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + draw)
        loss = self.loss(batch, generator)
        count = len(batch.captions)
        self.log("loss", loss, prog_bar=True, on_step=True, on_epoch=True, batch_size=count)
        return loss

    def train_dataloader(self) -> DataLoader:
        window = self.config.steps_per_epoch * self.config.batch_size * self.trainer.world_size
        start = self.trainer.global_step // self.config.steps_per_epoch * window
        stream = SceneStream("train", start, window, self.seed, self.omit)
        return loader(stream, self.config.batch_size)

    def transfer_batch_to_device(self, batch: SceneBatch, device: Any, index: int) -> SceneBatch:
        return SceneBatch(batch.images.to(device), batch.captions, batch.scenes)

    def trained_parameters(self) -> list[torch.nn.Parameter]:
        return [p for p in self.parameters() if p.requires_grad]

    def configure_optimizers(self) -> OptimizerLRScheduler:
        config = self.config
        optimizer = torch.optim.AdamW(
            self.trained_parameters(),
            lr=config.learning_rate,
            betas=(0.9, 0.99),
            weight_decay=config.weight_decay,
        )

        def factor(step: int) -> float:
            warm = min(1.0, (step + 1) / max(1, config.warmup_steps))
            return warm * (0.01 + 0.495 * (1 + math.cos(math.pi * min(1.0, step / config.steps))))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def on_train_epoch_end(self) -> None:
        if self.sheets is None or not self.trainer.is_global_zero:
            return
        picture = self.sheet()
        if picture is not None:
            self.sheets.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(self.sheets / f"step_{self.global_step:06d}.png")


def grid(images: Tensor, columns: int) -> np.ndarray:
    """Tile pictures (B, 3, H, W) in [-1, 1] into one uint8 picture, row by row."""
    pixels = to_pixels(images.cpu())  # (B, H, W, 3)
    rows = pixels.reshape(-1, columns, *pixels.shape[1:])
    return np.concatenate([np.concatenate(list(row), axis=1) for row in rows], axis=0)
