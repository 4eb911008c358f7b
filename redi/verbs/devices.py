"""Which devices a run may have."""

from __future__ import annotations

from redi.config import TrainerConfig
from redi.errors import UsageError, unknown
from redi.lazy import torch
from redi.ranges import check_ranges


def check_trainer(config: TrainerConfig) -> None:
    """Refuse what Lightning could not run."""
    check_ranges(config, "trainer.")
    for name, known in (
        ("accelerator", ("auto", "cpu", "gpu")),
        ("strategy", ("auto", "ddp", "ddp_spawn")),
    ):
        value = getattr(config, name)
        if value not in known:
            raise unknown(f"trainer.{name}={value!r}", value, known)
    if config.accelerator == "gpu":
        count = torch.cuda.device_count() or int(torch.backends.mps.is_available())
        if config.devices > count:
            raise UsageError(
                f"trainer.accelerator=gpu with trainer.devices={config.devices} needs as many GPUs "
                f"and PyTorch finds {count}: use fewer devices, or trainer.accelerator=cpu"
            )
