"""How far plain samplers are from their converged run: what makes a test bed easy or hard.

Work is cut into blocks of pictures of one setting (captions, guidance), each written once, so that
a stopped calibration goes on and several processes share one.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from redi.embedded.calibration_config import CalibrationConfig, JudgedRun
from redi.embedded.captions import CAPTIONS, prompts
from redi.errors import UsageError
from redi.files import write_durably
from redi.metrics.intervals import bootstrap_mean
from redi.models.identity import schedule_identity
from redi.models.text_to_image import TextToImageModel
from redi.samplers import Sampler, SamplerOptions, build_sampler, check_options
from redi.samplers.converged import converged_sampler

SPACING = "trailing"
_DECIDES = (
    *("samplers", "calls", "long_calls", "long_samplers"),
    *("converged_steps", "checked_steps", "checked_pictures", "seed"),
)


@dataclass(frozen=True)
class Block:
    """Pictures `first` to `last` (exclusive) of one setting."""

    captions: str
    guidance: float
    first: int
    last: int

    @property
    def name(self) -> str:
        return f"{self.captions}-{self.guidance:g}-{self.first}-{self.last}.parquet"


def check(config: CalibrationConfig) -> None:
    """Refuse, before any work, what could not be measured."""
    for name in ("captions", "guidance", "samplers", "calls"):
        if not getattr(config, name):
            raise UsageError(f"calibration.{name}=[] leaves nothing to measure: give at least one")
    for said in config.captions:
        if said not in CAPTIONS:
            raise UsageError(f"calibration.captions has {said!r}: use any of {', '.join(CAPTIONS)}")
    for text in config.samplers:
        name, _, order = text.partition(":")
        if order and not order.isdigit():
            raise UsageError(f"calibration.samplers has {text!r}: write name or name:order")
        check_options(name, SamplerOptions(SPACING, int(order) if order else None))
    for text in config.judged_runs:
        run = JudgedRun.parse(text)
        if run is None:
            raise UsageError(
                f"calibration.judged_runs has {text!r}: write name[:order]@calls, and +noise or "
                "+bfloat16 behind it for a floor"
            )
        check_options(run.sampler.partition(":")[0], SamplerOptions(SPACING))
    if config.judged == 1:
        raise UsageError("calibration.judged=1 has no interval: use at least 2, or 0 for none")


def blocks_of(config: CalibrationConfig, size: int) -> list[Block]:
    """All blocks: the first of every setting first, so that a stopped run covers all settings."""
    return [
        Block(captions, guidance, first, min(first + size, config.pictures))
        for first in range(0, config.pictures, size)
        for captions in config.captions
        for guidance in config.guidance
    ]


def sampler_called(text: str, scheduler: Any, calls: int) -> Sampler | None:
    """A sampler that calls the network `calls` times; None where it needs more calls.

    PNDM makes one call more than it has updates.
    """
    name, _, order = text.partition(":")
    steps = calls - 1 if name == "pndm" else calls
    if name == "pndm" and steps < 3:
        return None
    return build_sampler(name, scheduler, steps, SPACING, int(order) if order else None)


def relative_errors(latents: Tensor, reference: Tensor) -> np.ndarray:
    """Norm of the difference over the norm of the reference, per picture: float64 (B,)."""
    difference = (latents - reference).double().flatten(1).norm(dim=1)
    return (difference / reference.double().flatten(1).norm(dim=1)).cpu().numpy()


def initial_noise(model: TextToImageModel, first: int, count: int, seed: int) -> Tensor:
    """Unit normal noise (count, C, H, W), one generator per picture."""
    return torch.stack(
        [
            torch.randn(
                model.latent_shape, generator=torch.Generator().manual_seed(seed * 1_000_003 + i)
            )
            for i in range(first, first + count)
        ]
    ).to(model.device)


def measure(
    model: TextToImageModel, config: CalibrationConfig, block: Block
) -> list[dict[str, Any]]:
    """One row per picture, sampler and number of calls; a first block also shows convergence."""
    first, last = block.first, block.last
    texts = prompts("query", last, config.seed, block.captions)[1][first:]
    noise = initial_noise(model, first, last - first, config.seed)

    def latents(sampler: Sampler, count: int = last - first) -> Tensor:
        small = TextToImageModel(model.pipeline, block.guidance, model.negative_prompt, count)
        predict = small.predictor(small.encode(texts[:count]))  # calls are padded to `count` rows
        return sampler.finish(sampler.initial(noise[:count]), predict).latents

    def fine(steps: int, count: int = last - first) -> Tensor:
        return latents(converged_sampler(model.scheduler_config, steps), count)

    converged = fine(config.converged_steps)
    rows: list[dict[str, Any]] = []

    def add(sampler: str, calls: int, errors: np.ndarray) -> None:
        for offset, error in enumerate(errors.tolist()):
            rows.append(
                {
                    "captions": block.captions,
                    "guidance": block.guidance,
                    "sampler": sampler,
                    "calls": calls,
                    "picture": first + offset,
                    "latent_error_converged": error,
                }
            )

    for text in config.samplers:
        for calls in config.calls + (config.long_calls if text in config.long_samplers else []):
            sampler = sampler_called(text, model.scheduler_config, calls)
            if sampler is not None:
                add(text, calls, relative_errors(latents(sampler), converged))
    if first == 0 and config.checked_pictures:
        count = min(config.checked_pictures, last)
        finer = fine(config.checked_steps, count)
        add("converged", config.converged_steps, relative_errors(converged[:count], finer))
    return rows


def calibrate(
    model_at: Callable[[float], TextToImageModel],
    config: CalibrationConfig,
    folder: Path,
    done: Callable[[str], object],
) -> list[dict[str, Any]]:
    """Measure the blocks that are missing and return the rows of all that are there.

    `model_at` gives the model at a guidance scale; `done` is called per block. A block that another
    process works on is left to it: call again when it has finished.
    """
    models = {scale: model_at(scale) for scale in config.guidance}
    first = models[config.guidance[0]]
    decides = {name: getattr(config, name) for name in _DECIDES} | first.identity()
    exact = converged_sampler(first.scheduler_config, config.converged_steps)
    decides["converged"] = schedule_identity(exact).fields
    place, rows = place_of(folder, "errors", decides), []
    for block in blocks_of(config, first.batch_size):
        path = place / block.name
        with claimed(path.with_suffix(".lock")) as mine:
            if mine and not path.is_file():
                found = measure(models[block.guidance], config, block)
                table = pa.Table.from_pylist(found)
                write_durably(path, partial(pq.write_table, table))
        if path.is_file():
            rows += pq.read_table(path).to_pylist()
            done(block.name)
    return rows


def place_of(folder: Path, kind: str, decides: dict[str, Any]) -> Path:
    """A folder for the blocks of one kind, named by the content of all that decides them."""
    told = {name: value for name, value in decides.items() if name != "guidance_scale"}
    digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:12]
    place = folder / "blocks" / f"{kind}-{digest}"
    place.mkdir(parents=True, exist_ok=True)
    return place


@contextmanager
def claimed(path: Path) -> Iterator[bool]:
    """Whether this process is the one that works on something."""
    with open(path, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def points(rows: list[dict[str, Any]]) -> pa.Table:
    """One row per setting, sampler and number of calls: mean over pictures with its interval."""
    groups: dict[tuple[str, float, str, int], list[float]] = {}
    for row in rows:
        key = (row["captions"], row["guidance"], row["sampler"], row["calls"])
        groups.setdefault(key, []).append(row["latent_error_converged"])
    found = []
    for (captions, guidance, sampler, calls), errors in groups.items():
        estimate = bootstrap_mean(errors)
        found.append(
            {
                "captions": captions,
                "guidance": guidance,
                "sampler": sampler,
                "calls": calls,
                "latent_error_converged": estimate.mean,
                "low": estimate.low,
                "high": estimate.high,
                "std": float(np.std(errors, ddof=1)) if len(errors) > 1 else 0.0,
                "median": float(np.median(errors)),
                "pictures": estimate.count,
            }
        )
    return pa.Table.from_pylist(found)
