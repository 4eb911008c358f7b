"""Runs without retrieval, kept on disk: points of a sweep share their full runs and baselines."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from redi.files import locked, write_durably
from redi.inference import Cost, Outcome, run_plain
from redi.models.base import Conditioning
from redi.models.identity import schedule_identity
from redi.models.text_to_image import TextToImageModel
from redi.samplers import Sampler
from redi.verbs.provenance import versions

_FORMAT = 2
_COST = ("calls", "network_seconds", "rest_seconds")


class ReferenceRuns:
    """Plain runs of one model, each batch computed once.

    A file is named by everything that its latents depend on: the model's identity, guidance,
    sampler, timesteps, prompts, the noise itself, library versions, device and thread count. It
    carries the calls and seconds that were spent, so a point that reads it reports what the run
    cost. A file that cannot be read is made again. `root` of None keeps nothing.
    """

    def __init__(self, root: Path | None, model: TextToImageModel) -> None:
        self.root, self.model = root, model
        self.computed = self.read = 0  # batches

    def run(
        self,
        sampler: Sampler,
        conditioning: Conditioning,
        noise: Tensor,
        watch: tuple[int, ...] = (),
    ) -> Outcome:
        """As `run_plain`."""
        if self.root is None:
            self.computed += 1
            return run_plain(self.model, sampler, conditioning, noise, watch)
        path = self.root / f"{self._digest(sampler, conditioning, noise)}.safetensors"
        with locked(path.with_suffix(".lock")):  # other points of a parallel sweep want it too
            return self._shared(path, sampler, conditioning, noise, watch)

    def _shared(
        self,
        path: Path,
        sampler: Sampler,
        conditioning: Conditioning,
        noise: Tensor,
        watch: tuple[int, ...],
    ) -> Outcome:
        kept = _read(path, self.model.device)
        if kept is not None and set(watch) <= set(kept.watched):
            self.read += 1
            return kept
        outcome = run_plain(self.model, sampler, conditioning, noise, watch)
        self.computed += 1
        tensors = {f"step_{step}": latents for step, latents in outcome.watched.items()}
        tensors = {k: v.cpu().contiguous() for k, v in {**tensors, "end": outcome.latents}.items()}
        cost = {name: repr(getattr(outcome.cost, name)) for name in _COST}
        write_durably(path, lambda temporary: save_file(tensors, temporary, cost))
        return outcome

    def _digest(self, sampler: Sampler, conditioning: Conditioning, noise: Tensor) -> str:
        what: dict[str, Any] = {
            "format": _FORMAT,
            **self.model.identity(),
            **schedule_identity(sampler).fields,
            "prompts": conditioning.prompts,
            "versions": versions(),
            "device": str(self.model.device),
            "threads": torch.get_num_threads(),
        }
        digest = hashlib.sha256(json.dumps(what, sort_keys=True).encode())
        digest.update(noise.cpu().contiguous().numpy().data)
        return digest.hexdigest()[:24]


def _read(path: Path, device: torch.device) -> Outcome | None:
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name).to(device) for name in file.keys()}  # noqa: SIM118
            cost = {name: float(value) for name, value in file.metadata().items()}
    except (SafetensorError, ValueError):
        return None
    end = tensors.pop("end")
    watched = {int(name.removeprefix("step_")): latents for name, latents in tensors.items()}
    return Outcome(end, Cost(**cost), watched=watched)
