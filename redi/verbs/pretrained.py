"""Metric hooks over pretrained networks; what has no weights is left out, and says so."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from redi.config import Config
from redi.data.coco import validation_pictures
from redi.data.pixels import to_pixels
from redi.embedded.scenes import sample
from redi.errors import UsageError
from redi.metrics.frechet import fit_gaussian, frechet_distance, kernel_distance
from redi.metrics.images import Extractor, clean_features, cmmd
from redi.metrics.intervals import bootstrap_mean
from redi.metrics.openai_clip import ClipScorer
from redi.metrics.weights import inception, locate, lpips
from redi.verbs.hooks import BatchResult, Columns, MetricHook, Table, spread

PRETRAINED = ("inception", "clip", "lpips")
_PICTURES = (".png", ".jpg", ".jpeg", ".webp")


def real_pictures(config: Config) -> list[np.ndarray]:
    """uint8 (H, W, 3): metrics.real_folder in name order, else what belongs to the prompts.

    That is COCO's validation images with data=coco2014, rendered held-out scenes with data=scenes.
    """
    folder, count = config.metrics.real_folder, config.metrics.real_images
    if folder is not None:
        paths = [p for p in sorted(Path(folder).rglob("*")) if p.suffix.lower() in _PICTURES]
        if len(paths) < 2:
            raise UsageError(
                f"metrics.real_folder={folder!r} holds {len(paths)} pictures: give at least 2"
            )
        return [_read(path) for path in paths[:count]]
    if config.data.name == "coco2014":
        return [_read(p) for p in validation_pictures(config.data.root, count, config.data.seed)]
    if config.data.name != "scenes":
        raise UsageError(
            "metrics.real_folder=None leaves FID, KID and CMMD without real pictures: name a "
            "folder or leave 'inception' and 'clip' out of metrics.hooks"
        )
    drawn = [sample("query", index, seed=3) for index in range(count)]
    return [scene.render(rng) for scene, rng in drawn]


def _read(path: Path) -> np.ndarray:
    try:
        return np.array(Image.open(path).convert("RGB"))
    except OSError as error:
        raise UsageError(
            f"{str(path)!r} is not a picture that can be read ({type(error).__name__}): copy or "
            "unpack it again"
        ) from error


def pretrained_hooks(config: Config) -> tuple[list[MetricHook], list[str]]:
    """The configured hooks whose weights are there, and a sentence for each of the others."""
    hooks: list[MetricHook] = []
    notes = []
    metrics = config.metrics
    for kind in PRETRAINED:
        if kind not in metrics.hooks:
            continue
        found = locate(kind, Path(metrics.weights), metrics.download)
        if isinstance(found, str):
            notes.append(found)
        elif kind == "lpips":
            hooks.append(LpipsHook(lpips(found), metrics.resamples))
        elif kind == "clip":
            scorer = ClipScorer.load(found)
            hooks.append(ClipHook(scorer, lambda: real_pictures(config), metrics.resamples))
        else:
            real = real_pictures(config)
            hooks.append(InceptionHook(inception(found), real, metrics.allow_few))
    return hooks, notes


class InceptionHook(MetricHook):
    """FID and KID by the clean-fid protocol against real pictures.

    FID needs as many pictures as features (2048) unless `allow_few`; KID is unbiased and always
    there.
    """

    def __init__(self, extractor: Extractor, real: list[np.ndarray], allow_few: bool) -> None:
        self.extractor, self.allow_few = extractor, allow_few
        self.real = clean_features(real, extractor)

    def measure(self, result: BatchResult) -> dict[str, Columns]:
        return {
            method: {"inception": clean_features(to_pixels(images), self.extractor)}
            for method, images in result.images.items()
        }

    def summarise(self, table: Table, method: str) -> dict[str, Any]:
        features = table.column(method, "inception")
        if features is None:
            return {}
        fields = {"kid": kernel_distance(features, self.real)}
        if self.allow_few or min(len(features), len(self.real)) >= features.shape[1]:
            mine, real = (fit_gaussian(rows, self.allow_few) for rows in (features, self.real))
            fields["fid"] = frechet_distance(mine, real)
        return fields


class ClipHook(MetricHook):
    """CLIP score per picture, and CMMD against real pictures."""

    def __init__(
        self, scorer: ClipScorer, real: Callable[[], list[np.ndarray]], resamples: int
    ) -> None:
        self.scorer, self.resamples = scorer, resamples
        self.real = scorer.image_features(real()).numpy()

    def measure(self, result: BatchResult) -> dict[str, Columns]:
        columns = {}
        for method, images in result.images.items():
            pictures = list(to_pixels(images))
            columns[method] = {
                "openai_clip_score": self.scorer.score(pictures, result.prompts),
                "clip_features": self.scorer.image_features(pictures).double().numpy(),
            }
        return columns

    def summarise(self, table: Table, method: str) -> dict[str, Any]:
        scores = table.by_prompt(method, "openai_clip_score")
        features = table.column(method, "clip_features")
        if scores is None or features is None:
            return {}
        estimate = bootstrap_mean(scores, resamples=self.resamples)
        return {**spread("openai_clip_score", estimate), "cmmd": cmmd(features, self.real)}


class LpipsHook(MetricHook):
    """LPIPS to the query's own full run."""

    def __init__(self, network: Callable[..., Any], resamples: int) -> None:
        self.network, self.resamples = network, resamples

    def measure(self, result: BatchResult) -> dict[str, Columns]:
        full = result.images["full"]
        return {
            method: {"lpips": self.network(images, full).double().flatten().numpy()}
            for method, images in result.images.items()
            if method != "full"
        }

    def summarise(self, table: Table, method: str) -> dict[str, Any]:
        values = None if method == "full" else table.by_prompt(method, "lpips")
        if values is None:
            return {}
        return spread("lpips", bootstrap_mean(values, resamples=self.resamples))
