"""Settings of one training stage of the embedded model."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class StageConfig:
    """Length and optimiser of one training stage."""

    steps: int = 2000
    batch_size: int = 64
    learning_rate: float = 5e-4
    warmup_steps: int = 100
    #: last steps, in which the learning rate falls to zero
    decay_steps: int = 400
    weight_decay: float = 0.01
    #: scenes that are drawn at once, and how often each is used
    pool: int = 4096
    passes: int = 1
    #: a checkpoint and a sample sheet are written after so many steps
    save_every: int = 200
