"""What the three training stages of the embedded model share: data, learning rate, exact resuming.

The learning rate is warmed up, constant, and falls to zero over the last `decay_steps`. Until that
fall begins a run does not depend on its length, so it can be ended early or extended.
"""

from __future__ import annotations

import csv
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from redi.data.pixels import to_pixels
from redi.embedded.checkpoint import Checkpoints
from redi.embedded.stage_config import StageConfig
from redi.embedded.stream import Painters, Span
from redi.files import write_durably

Pool = TypeVar("Pool")
LOG_EVERY = 20  # steps
CLIP_NORM = 1.0


class TrainingStage(torch.nn.Module, Generic[Pool]):
    """One network trained on the endless stream of scenes.

    Data are addressed by the step and noise is seeded by it, so a run that was stopped and resumed
    sees what an uninterrupted run would have seen.
    """

    def __init__(self, config: StageConfig, seed: int) -> None:
        super().__init__()
        self.config, self.seed = config, seed
        self.painters = Painters()

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def span(self, number: int) -> Span:
        """The scenes of pool `number`."""
        return Span("train", number * self.config.pool, self.config.pool, self.seed)

    def prepare(self, number: int) -> Pool:
        """Pool `number`: what `loss` needs of its scenes, on the device."""
        raise TypeError(f"{type(self).__name__} does not prepare data")

    def loss(self, pool: Pool, rows: Tensor, seed: int) -> Tensor:
        """Training loss of some rows of a pool; all randomness comes from `seed`."""
        raise TypeError(f"{type(self).__name__} does not define a loss")

    def trained_parameters(self) -> list[torch.nn.Parameter]:
        return [p for p in self.parameters() if p.requires_grad]

    def after_step(self, step: int) -> None:
        """Called when `step` steps are completed."""

    def sheet(self) -> np.ndarray | None:
        """A picture of the current quality, uint8 (H, W, 3), or nothing."""
        return None


def learning_rate(config: StageConfig, step: int) -> float:
    """Warm-up, constant, linear fall to zero; `step` counts from 0."""
    warm = (step + 1) / max(1, config.warmup_steps)
    fall = (config.steps - step) / max(1, config.decay_steps)
    return config.learning_rate * min(1.0, warm, fall)


def rows_of(config: StageConfig, seed: int, step: int) -> tuple[int, np.ndarray]:
    """Which pool and which of its rows (B,) a step is trained on."""
    per_pass = max(1, config.pool // config.batch_size)
    one_pass, position = divmod(step, per_pass)
    order = np.random.default_rng([seed, 31, one_pass]).permutation(config.pool)
    start = position * config.batch_size
    return one_pass // config.passes, order[start : start + config.batch_size]


def fit(
    stage: TrainingStage[Any],
    checkpoints: Checkpoints,
    folder: Path,
    bfloat16: bool,
    report: Callable[[int, float, float], object],
) -> dict[str, Any]:
    """Train from the last checkpoint that fits, or from the start.

    `report` is called with step, mean loss and samples per second.
    """
    config, device = stage.config, stage.device
    optimizer = torch.optim.AdamW(
        stage.trained_parameters(),
        lr=config.learning_rate,
        betas=(0.9, 0.99),
        weight_decay=config.weight_decay,
        fused=True,
    )
    first = checkpoints.load(stage, optimizer, config)
    log = _Log(folder / "loss.csv", first)
    number, pool = -1, None
    losses: list[Tensor] = []
    since = time.monotonic()
    stage.train()
    for step in range(first, config.steps):
        wanted, rows = rows_of(config, stage.seed, step)
        if wanted != number:
            number, pool = wanted, stage.prepare(wanted)
            if rows_of(config, stage.seed, config.steps - 1)[0] > wanted:
                stage.painters.begin(stage.span(wanted + 1))
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config, step)
        chosen = torch.from_numpy(rows).to(device, non_blocking=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
            loss = stage.loss(pool, chosen, stage.seed * 1_000_003 + step)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(stage.trained_parameters(), CLIP_NORM)
        optimizer.step()
        done = step + 1
        stage.after_step(done)
        losses.append(loss.detach())  # read later: a GPU is not waited for at every step
        drawn = done % config.save_every == 0
        saved = drawn or done == config.steps or _falls_next(config, done)
        if saved or done % LOG_EVERY == 0:
            mean = float(torch.stack(losses).double().mean())
            elapsed = time.monotonic() - since
            log.add(done, mean, elapsed)
            report(done, mean, len(losses) * config.batch_size / elapsed)
            losses, since = [], time.monotonic()
        if drawn:
            _save_sheet(stage, folder / "sheets" / f"step_{done:06d}.png")
        if saved:  # last: what belongs to a step is there where a run goes on from it
            checkpoints.save(stage, optimizer, config, done)
    return {
        "steps": config.steps,
        "samples": config.steps * config.batch_size,
        "seconds": round(log.seconds),
        "loss": log.loss,
    }


def _falls_next(config: StageConfig, done: int) -> bool:
    return done == config.steps - config.decay_steps


def _save_sheet(stage: TrainingStage[Any], path: Path) -> None:
    picture = stage.sheet()
    stage.train()
    if picture is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(path)


class _Log:
    """CSV of step, loss and seconds; what came after the resumed step is dropped."""

    def __init__(self, path: Path, first: int) -> None:
        self.path, self.rows = path, [["step", "loss", "seconds"]]
        if first and path.is_file():
            with open(path, newline="") as file:
                self.rows += [r for r in csv.reader(file) if r[0].isdigit() and int(r[0]) <= first]

    @property
    def loss(self) -> float:
        """The last mean loss."""
        return float(self.rows[-1][1])

    @property
    def seconds(self) -> float:
        return sum(float(row[2]) for row in self.rows[1:])

    def add(self, step: int, loss: float, seconds: float) -> None:
        self.rows.append([str(step), f"{loss:.5f}", f"{seconds:.2f}"])
        write_durably(self.path, self._write)

    def _write(self, path: Path) -> None:
        with open(path, "w", newline="") as file:
            csv.writer(file).writerows(self.rows)


def grid(images: Tensor, columns: int) -> np.ndarray:
    """Tile pictures (B, 3, H, W) in [-1, 1] into one uint8 picture, row by row."""
    pixels = to_pixels(images.cpu())  # (B, H, W, 3)
    rows = pixels.reshape(-1, columns, *pixels.shape[1:])
    return np.concatenate([np.concatenate(list(row), axis=1) for row in rows], axis=0)
