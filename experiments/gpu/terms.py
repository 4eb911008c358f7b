"""What the checks share: the device, how much is done, and what a check says."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if GPU else "cpu")
PROMPTS = ["a red fox in the snow", "a blue car", "a green tree by a lake", "a small apple"]


@dataclass(frozen=True)
class Size:
    """How much is done."""

    #: Stable Diffusion 1.5 with random weights at 512 pixels in float16; else the embedded model
    sd15: bool
    repeats: int
    keys: int
    key_width: int
    train_steps: int
    train_pool: int
    #: trajectories of the KB comparison, queries of the main job
    trajectories: int
    queries: int
    options: bool


SIZES = {
    "full": Size(True, 3, 100_000, 16_384, 400, 4096, 64, 64, True),
    "quick": Size(True, 1, 100_000, 16_384, 60, 512, 16, 16, False),
    "small": Size(False, 1, 2_000, 1_024, 4, 64, 8, 4, True),
}


@dataclass(frozen=True)
class Row:
    """What a check measured, and whether it reached its aim; None: it has none here."""

    measured: str
    aim: str = ""
    reached: bool | None = None


def seconds(work: Callable[[], Any]) -> float:
    """Wall-clock seconds of some work and of all that it queued on the device."""
    if GPU:
        torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    if GPU:
        torch.cuda.synchronize()
    return time.perf_counter() - start
