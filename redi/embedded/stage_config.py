"""Settings of the training of the embedded model: its stages, and all of them."""

from __future__ import annotations

from dataclasses import dataclass, field

from redi.ranges import SEED, within


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


@dataclass
class TrainConfig:
    """The embedded model's recipe: three stages, each resumable."""

    #: all | autoencoder | diffusion | evaluator | export
    stage: str = "all"
    seed: int = within(0, 0, SEED)
    #: checkpoints, logs and sample sheets
    run_dir: str = "outputs/train"
    #: where finished weights go; null: the package's assets
    export_dir: str | None = None
    #: folder of exported weights (emoji-scenes, emoji-clip) to go on from; null: from nothing
    start_from: str | None = None
    #: bf16-mixed | float32
    precision: str = "bf16-mixed"
    #: auto | cpu | cuda
    device: str = "auto"
    #: CPU threads; null: PyTorch's own choice
    threads: int | None = within(None, 1)
    #: processes that paint scenes ahead; null: with a GPU all cores but one, without one none
    workers: int | None = within(None, 0, 1024)
    #: held-out scenes that a finished stage is measured on
    quality_images: int = within(1024, 2)
    autoencoder: StageConfig = field(
        default_factory=lambda: StageConfig(1000, 32, 1e-3, 30, 600, 0.01, 2240, 1, 350)
    )
    diffusion: StageConfig = field(
        default_factory=lambda: StageConfig(4400, 64, 6e-4, 100, 600, 0.01, 8192, 5, 300)
    )
    evaluator: StageConfig = field(
        default_factory=lambda: StageConfig(5500, 512, 8e-4, 200, 1100, 0.05, 16384, 4, 400)
    )
