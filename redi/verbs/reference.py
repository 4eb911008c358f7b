"""Answers of the network that points of a sweep share, kept on disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Container
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from redi.errors import UsageError
from redi.files import locked
from redi.methods import Method, Query
from redi.methods.memo import Kept, Memo
from redi.methods.solve import Outcome, solve
from redi.models.base import Conditioning
from redi.models.identity import schedule_identity
from redi.models.text_to_image import TextToImageModel
from redi.sealed import load_sealed, save_sealed
from redi.verbs.provenance import versions

_FORMAT, _WHAT = 2, "the network answers"


class ReferenceRuns:
    """Runs of one model whose network answers are kept: full sampling and plain samplers.

    A file holds the answers to the calls of one method on one batch, by what was asked. Running
    the method again replays them, so everything about the run is had from them and no result is
    believed: an answer is used only where the network would be told the same, bit for bit. `root`
    of None keeps nothing.
    """

    def __init__(self, root: Path | None, model: TextToImageModel) -> None:
        self.root, self.model = root, model
        self.computed = self.read = 0  # batches

    def run(
        self,
        method: Method,
        query: Query,
        conditioning: Conditioning,
        memo: Memo | None = None,
        watch: Container[int] = (),
    ) -> Outcome:
        """As `solve`."""
        memo = Memo() if memo is None else memo
        if self.root is None:
            self.computed += 1
            return solve(method, query, self.model, conditioning, None, memo, watch)
        path = self.root / f"{self._name(method, query, conditioning)}.safetensors"
        with locked(path.with_suffix(".lock")):  # other points of a parallel sweep want it too
            return self._shared(path, method, query, conditioning, memo, watch)

    def _shared(
        self,
        path: Path,
        method: Method,
        query: Query,
        conditioning: Conditioning,
        memo: Memo,
        watch: Container[int],
    ) -> Outcome:
        known = read(path, self.model)
        memo.answers |= known
        given = len(memo.given)
        outcome = solve(method, query, self.model, conditioning, None, memo, watch)
        used = list(dict.fromkeys(memo.given[given:]))
        if set(used) <= set(known):
            self.read += 1
        else:
            self.computed += 1
            write(path, self.model, {name: memo.answers[name] for name in used})
        return outcome

    def _name(self, method: Method, query: Query, conditioning: Conditioning) -> str:
        what = {
            "format": _FORMAT,
            **self.model.identity(),
            **schedule_identity(method.sampler).fields,
            "prompts": conditioning.prompts,
            "method": [method.name, method.settings()],
            "versions": versions(),
            "device": str(self.model.device),
            "threads": torch.get_num_threads(),
        }
        digest = hashlib.sha256(json.dumps(what, sort_keys=True).encode())
        digest.update(query.noise.cpu().contiguous().numpy().data)
        return digest.hexdigest()[:24]


def _of(path: Path, model: TextToImageModel) -> dict[str, Any]:
    return {"name": path.stem, "model": model.identity()["model_hash"]}


def write(path: Path, model: TextToImageModel, answers: dict[str, Kept]) -> None:
    """Keep answers of a model, sealed."""
    tensors: dict[str, Tensor] = {}
    for name, kept in answers.items():
        tensors[f"{name}.output"] = kept.output.cpu()
        if kept.guidance is not None:
            tensors[f"{name}.guidance"] = kept.guidance.cpu()
    seconds = {name: kept.seconds for name, kept in answers.items()}
    save_sealed(path, _WHAT, _of(path, model), tensors, seconds)


def read(path: Path, model: TextToImageModel) -> dict[str, Kept]:
    """Kept answers; a file that is damaged or of something else holds none and is made again."""
    if not path.is_file():
        return {}
    try:
        found = load_sealed(path, _WHAT, _of(path, model))
        tensors = {name: tensor.to(model.device) for name, tensor in found.tensors.items()}
        return {
            name: Kept(tensors[f"{name}.output"], tensors.get(f"{name}.guidance"), float(spent))
            for name, spent in found.content.items()
        }
    except (UsageError, KeyError, AttributeError, TypeError, ValueError):
        return {}
