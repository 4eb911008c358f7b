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
from redi.embedded.calibration_config import CalibrationConfig
from redi.embedded.captions import prompts
from redi.embedded.scenes import ATTRIBUTES
from redi.embedded.stream import scene_batches
from redi.files import write_durably
from redi.metrics.evaluator import Evaluator
from redi.metrics.frechet import fit_gaussian, frechet_distance, kernel_distance
from redi.metrics.intervals import Estimate, bootstrap_mean
from redi.metrics.precision_recall import covered, radii
from redi.metrics.prompt_fidelity import attribute_hits
from redi.models.content import content_hash
from redi.models.text_to_image import TextToImageModel

_ROWS = 64  # pictures of one block
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
                path = place / f"{text.replace(':', '-')}-{start}.parquet"
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
    name, _, calls = text.partition("@")
    sampler = sampler_called(name, model.scheduler_config, int(calls))
    if sampler is None:
        raise ValueError(f"{text} needs more calls")
    noise = initial_noise(model, start, stop - start, config.seed)
    latents = sampler.finish(sampler.initial(noise), model.predictor(model.encode(texts))).latents
    images = model.decode(latents).to(evaluator.device)
    columns = {k: v.tolist() for k, v in attribute_hits(images, said, evaluator).items()}
    columns["clip_score"] = evaluator.clip_score(images, texts).tolist()
    columns["features"] = evaluator.image_features(images).double().tolist()
    return pa.table(columns)


def summary(
    found: dict[float, dict[str, dict[str, np.ndarray]]], evaluator: Evaluator, count: int
) -> list[dict[str, Any]]:
    """Scores of every run, floors of real scenes, and paired differences of neighbouring runs."""
    real, other = (_real_features(evaluator, count, seed) for seed in (_REAL_SEED, 4))
    rows = [
        {"run": "real scenes", **_distances(other, real)},
    ]
    for scale, runs in found.items():
        for text, columns in runs.items():
            scores = {name: _score(columns[name]) for name in (*ATTRIBUTES, "all", "clip_score")}
            rows.append(
                {
                    "run": text,
                    "guidance": scale,
                    **scores,
                    **_distances(columns["features"], real),
                }
            )
        for (few, less), (many, more) in zip(
            list(runs.items()), list(runs.items())[1:], strict=False
        ):
            differences = {
                name: _plain(bootstrap_mean(more[name] - less[name]))
                for name in ("all", "clip_score")
            }
            differences["fd_scene"] = _plain(
                _paired_distance(more["features"], less["features"], real)
            )
            rows.append({"run": f"{many} minus {few}", "guidance": scale, **differences})
    return rows


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


def _distances(features: np.ndarray, real: np.ndarray) -> dict[str, float]:
    return {
        "fd_scene": _frechet(features, real),
        "kid_scene": kernel_distance(features, real),
        "precision": float(covered(features, real, radii(real)).mean()),
        "recall": float(covered(real, features, radii(features)).mean()),
    }


def _frechet(features: np.ndarray, real: np.ndarray) -> float:
    target = fit_gaussian(real, allow_few=True)
    return frechet_distance(fit_gaussian(features, allow_few=True), target)


def _paired_distance(first: np.ndarray, second: np.ndarray, real: np.ndarray) -> Estimate:
    """Difference of two sets' distances to real scenes, prompts resampled together."""
    rng, count = np.random.default_rng(0), len(first)
    estimate = _frechet(first, real) - _frechet(second, real)
    draws = []
    for _ in range(_RESAMPLES):
        rows = rng.integers(count, size=count)
        draws.append(_frechet(first[rows], real) - _frechet(second[rows], real))
    spread = np.array(draws) - np.mean(draws) + estimate
    low, high = np.quantile(spread, [0.025, 0.975])
    return Estimate(estimate, float(low), float(high), count)
