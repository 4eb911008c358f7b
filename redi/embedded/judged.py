"""What more calls are worth in pictures: fidelity, CLIP score and distances to real scenes.

All runs of one guidance scale start from the same prompts and noises, so their differences are
paired.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from redi.embedded.calibration import (
    claimed,
    initial_noise,
    place_of,
    sampler_called,
)
from redi.embedded.calibration_config import CalibrationConfig, JudgedRun
from redi.embedded.captions import prompts
from redi.embedded.scenes import ATTRIBUTES
from redi.embedded.stream import scene_batches
from redi.files import write_durably
from redi.metrics.evaluator import Evaluator
from redi.metrics.frechet import fit_gaussian, frechet_distance, kernel_distance
from redi.metrics.intervals import Estimate, bootstrap_choice, bootstrap_mean
from redi.metrics.precision_recall import covered, radii
from redi.metrics.prompt_fidelity import attribute_hits
from redi.models.content import content_hash
from redi.models.text_to_image import TextToImageModel

_ROWS = 64  # pictures of one block
_OTHER_NOISE = 1_000  # added to the seed
_RESAMPLES = 200
_REAL_SEED = 3  # the real scenes that FD-scene compares with elsewhere


def judged_blocks(config: CalibrationConfig) -> int:
    """How many blocks of pictures there are."""
    return len(config.judged_guidance) * len(config.judged_runs) * -(-config.judged // _ROWS)


def judge(
    model_at: Callable[[float], TextToImageModel],
    evaluator: Evaluator,
    config: CalibrationConfig,
    folder: Path,
    done: Callable[[str], object],
) -> dict[float, dict[str, dict[str, np.ndarray]]]:
    """Columns of the pictures by guidance scale and run, as far as blocks are finished."""
    found: dict[float, dict[str, dict[str, np.ndarray]]] = {}
    for scale in config.judged_guidance:
        model = model_at(scale)
        decides = {**model.identity(), "judged": config.judged, "seed": config.seed}
        decides["judge"] = content_hash(evaluator.model)
        place = place_of(folder, f"pictures-{scale:g}", decides)
        for text in config.judged_runs:
            parts = []
            for start in range(0, config.judged, _ROWS):
                path = place / f"{text.replace(':', '-').replace('+', '-')}-{start}.parquet"
                with claimed(path.with_suffix(".lock")) as mine:
                    if mine and not path.is_file():
                        table = _pictures(model, evaluator, config, text, start)
                        write_durably(path, partial(pq.write_table, table))
                if path.is_file():
                    parts.append(pq.read_table(path))
                    done(f"guidance {scale:g}, {text}, pictures from {start}")
            if len(parts) == -(-config.judged // _ROWS):
                table = pa.concat_tables(parts)
                columns = {n: np.array(table[n].to_pylist(), float) for n in table.column_names}
                found.setdefault(scale, {})[text] = columns
    return found


def _pictures(
    model: TextToImageModel, evaluator: Evaluator, config: CalibrationConfig, text: str, start: int
) -> pa.Table:
    stop = min(start + _ROWS, config.judged)
    said, texts = prompts("query", stop, config.seed, "open")
    said, texts = said[start:], texts[start:]
    run = JudgedRun.parse(text)
    if run is None:
        raise ValueError(f"{text!r} is no run")
    sampler = sampler_called(run.sampler, model.scheduler_config, run.calls)
    if sampler is None:
        raise ValueError(f"{text} needs more calls")
    seed = config.seed + (_OTHER_NOISE if run.floor == "noise" else 0)
    noise = initial_noise(model, start, stop - start, seed)
    coarse = torch.autocast(model.device.type, torch.bfloat16, enabled=run.floor == "bfloat16")
    with coarse:
        predict = model.predictor(model.encode(texts))
        latents = sampler.finish(sampler.initial(noise), predict).latents.float()
    images = model.decode(latents).to(evaluator.device)
    columns = {k: v.tolist() for k, v in attribute_hits(images, said, evaluator).items()}
    columns["clip_score"] = evaluator.clip_score(images, texts).tolist()
    columns["features"] = evaluator.image_features(images).double().tolist()
    return pa.table(columns)


def summary(
    found: dict[float, dict[str, dict[str, np.ndarray]]], evaluator: Evaluator, count: int
) -> list[dict[str, Any]]:
    """Scores of every run, floors, and paired differences of runs that follow each other.

    The first row compares two halves of as many real scenes: what a perfect model would reach.
    """
    real, other = (_real_features(evaluator, count, seed) for seed in (_REAL_SEED, 4))
    rows: list[dict[str, Any]] = [{"run": "real scenes", **_distances(other, real)}]
    for scale, runs in found.items():
        for text, columns in runs.items():
            scores = {name: _score(columns[name]) for name in (*ATTRIBUTES, "all", "clip_score")}
            distances = _distances(columns["features"], real)
            rows.append({"run": text, "guidance": scale, **scores, **distances})
        whole = [text for text in runs if "+" not in text]
        pairs = list(zip(whole[1:], whole, strict=False))
        pairs += [(text, text.partition("+")[0]) for text in runs if "+" in text]
        for one, other_run in pairs:
            if other_run in runs:
                told = {"run": f"{one} minus {other_run}", "guidance": scale}
                rows.append(told | _differences(runs[one], runs[other_run], real))
    return rows


def _differences(
    one: dict[str, np.ndarray], other: dict[str, np.ndarray], real: np.ndarray
) -> dict[str, Any]:
    found = {
        name: _plain(bootstrap_mean(one[name] - other[name])) for name in ("all", "clip_score")
    }
    return found | {"fd_scene": _plain(_paired_distance(one["features"], other["features"], real))}


def _real_features(evaluator: Evaluator, count: int, seed: int) -> np.ndarray:
    parts = [
        evaluator.image_features(batch.images.to(evaluator.device)).double().cpu()
        for batch in scene_batches("query", count, seed)
    ]
    return torch.cat(parts).numpy()


def _score(values: np.ndarray) -> dict[str, float] | None:
    """The mean over the pictures whose prompts say it; None where fewer than two do."""
    said = values[~np.isnan(values)]
    return _plain(bootstrap_mean(said)) if len(said) > 1 else None


def _plain(estimate: Estimate) -> dict[str, float]:
    return {k: v for k, v in asdict(estimate).items() if k != "draws"}


def _distances(features: np.ndarray, real: np.ndarray) -> dict[str, Any]:
    return {
        "fd_scene": _plain(
            bootstrap_choice(
                len(features), lambda rows: _frechet(features[rows], real), resamples=_RESAMPLES
            )
        ),
        "kid_scene": kernel_distance(features, real),
        "precision": float(covered(features, real, radii(real)).mean()),
        "recall": float(covered(real, features, radii(features)).mean()),
    }


def _frechet(features: np.ndarray, real: np.ndarray) -> float:
    target = fit_gaussian(real, allow_few=True)
    return frechet_distance(fit_gaussian(features, allow_few=True), target)


def _paired_distance(first: np.ndarray, second: np.ndarray, real: np.ndarray) -> Estimate:
    """Difference of two sets' distances to real scenes, prompts resampled together."""
    return bootstrap_choice(
        len(first),
        lambda rows: _frechet(first[rows], real) - _frechet(second[rows], real),
        resamples=_RESAMPLES,
    )
