"""Checkpoints of a training stage: safetensors, written whole or not at all."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from redi.files import write_durably

if TYPE_CHECKING:
    from redi.embedded.training import StageConfig, TrainingStage

_LENGTH = ("steps", "decay_steps", "save_every")


class Checkpoints:
    """The last state of a stage, and the last one before its learning rate began to fall.

    The second serves runs that are extended: until the fall begins, a run of any length is the
    same. `identity` is what else decides the weights; checkpoints of another one are left alone.
    """

    def __init__(self, folder: Path, identity: dict[str, Any]) -> None:
        self.folder, self.identity = folder, identity

    def _key(self, config: StageConfig) -> str:
        settings = {k: v for k, v in asdict(config).items() if k not in _LENGTH}
        return json.dumps({"stage": settings, **self.identity}, sort_keys=True)

    def save(
        self,
        stage: TrainingStage[Any],
        optimizer: torch.optim.Optimizer,
        config: StageConfig,
        step: int,
    ) -> None:
        tensors = {f"stage.{name}": value for name, value in stage.state_dict().items()}
        for number, state in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{number}.{name}": value for name, value in state.items()}
        metadata = {
            "key": self._key(config),
            "step": str(step),
            "fall": json.dumps([config.steps, config.decay_steps]),
        }
        constant = step <= config.steps - config.decay_steps
        contiguous = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        # whoever stops in between goes on from the first, which is the same state
        for name in ("constant", "last") if constant else ("last",):
            write_durably(
                self.folder / f"{name}.safetensors",
                lambda path: save_file(contiguous, path, metadata),
            )

    def load(
        self, stage: TrainingStage[Any], optimizer: torch.optim.Optimizer, config: StageConfig
    ) -> int:
        """Restore the furthest state that belongs to this run; its step, 0 where there is none."""
        fitting = [
            (step, path)
            for name in ("last", "constant")
            if (path := self.folder / f"{name}.safetensors").is_file()
            and (step := self._step(path, config)) is not None
        ]
        if not fitting:
            return 0
        step, path = max(fitting)
        tensors = load_file(path)
        stage.load_state_dict(_below(tensors, "stage."))
        moments: dict[int, dict[str, Tensor]] = {}
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        for name, value in _below(tensors, "optimizer.").items():
            number, field = name.split(".", 1)
            if value.ndim:  # laid out in memory as the weights are: the fused step relies on it
                value = torch.empty_like(parameters[int(number)], dtype=value.dtype).copy_(value)
            moments.setdefault(int(number), {})[field] = value
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": moments, "param_groups": groups})
        return step

    def _step(self, path: Path, config: StageConfig) -> int | None:
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
        if metadata["key"] != self._key(config):
            return None
        step, fall = int(metadata["step"]), json.loads(metadata["fall"])
        same_length = fall == [config.steps, config.decay_steps]
        before = step <= min(fall[0] - fall[1], config.steps - config.decay_steps)
        return step if same_length or before else None


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
