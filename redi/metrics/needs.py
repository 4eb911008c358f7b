"""What metrics share: networks, their features of a batch, and those of real pictures."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from redi.config import Config
from redi.data.pixels import to_pixels, to_tensor
from redi.embedded.captions import sample
from redi.errors import UsageError
from redi.lazy import Tensor, torch
from redi.metrics.batch import BatchResult, Columns
from redi.metrics.real import real_pictures
from redi.metrics.weights import locate


class Missing(Exception):
    """A need that is not there; its one sentence says what to do."""


class Features(ABC):
    """An extractor of features, asked once for each batch and entry."""

    name: str

    @abstractmethod
    def extract(self, images: Tensor) -> Tensor:
        """Features (B, D) of pictures (B, 3, H, W) in [-1, 1]."""

    @property
    @abstractmethod
    def real(self) -> np.ndarray:
        """Features of real pictures, float64 (R, D)."""

    @property
    def column(self) -> str:
        return f"{self.name}_features"

    def of(self, batch: BatchResult, entry: str) -> Tensor:
        """Features (B, D) of an entry's pictures."""
        key = (self.name, entry)
        if key not in batch.features:
            batch.features[key] = self.extract(batch.images[entry])
        return batch.features[key]

    def columns(self, batch: BatchResult) -> dict[str, Columns]:
        """The features of all entries as a column of the table, float64."""
        return {e: {self.column: self.of(batch, e).double().cpu().numpy()} for e in batch.images}


class EvaluatorFeatures(Features):
    """The embedded domain's own judge (or `metrics.evaluator_path`) against real scenes."""

    name = "evaluator"

    def __init__(self, config: Config) -> None:
        from redi.metrics.evaluator import EMBEDDED_EVALUATOR, Evaluator

        path, self.count = config.metrics.evaluator_path, config.metrics.real_images
        try:
            device = "cuda" if torch.cuda.is_available() else "cpu"
            self.judge = Evaluator.load(EMBEDDED_EVALUATOR if path is None else path, device)
        except ValueError as error:
            raise UsageError(f"metrics.evaluator_path={path!r}: {error}") from error

    def extract(self, images: Tensor) -> Tensor:
        return self.judge.image_features(images)

    @cached_property
    def real(self) -> np.ndarray:
        parts = []
        for start in range(0, self.count, 256):
            stop = min(start + 256, self.count)
            drawn = [sample("query", index, seed=3) for index in range(start, stop)]
            pictures = to_tensor(np.stack([scene.render(rng) for scene, rng in drawn]))
            parts.append(self.judge.image_features(pictures).cpu())
        return torch.cat(parts).double().numpy()


class InceptionFeatures(Features):
    """Inception by the clean-fid protocol."""

    name = "inception"

    def __init__(self, config: Config) -> None:
        from redi.metrics.weights import inception

        self.network, self.config = inception(_weights("inception", config)), config

    def extract(self, images: Tensor) -> Tensor:
        from redi.metrics.images import clean_features

        return torch.from_numpy(clean_features(to_pixels(images), self.network))

    @cached_property
    def real(self) -> np.ndarray:
        from redi.metrics.images import clean_features

        return clean_features(real_pictures(self.config), self.network)


class ClipFeatures(Features):
    """A CLIP of OpenAI's layout: the weights `name`."""

    def __init__(self, name: str, config: Config) -> None:
        from redi.metrics.openai_clip import ClipScorer

        self.name, self.config, folder = name, config, _weights(name, config)
        try:
            self.scorer = ClipScorer.load(folder, config.metrics.long_prompts)
        except (OSError, ValueError, TypeError, RuntimeError) as error:
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            raise UsageError(
                f"the weights {str(folder)!r} are no CLIP that transformers can read ({reason}): "
                "save its model, tokenizer and image processor there with save_pretrained"
            ) from error

    def extract(self, images: Tensor) -> Tensor:
        return self.scorer.image_features(list(to_pixels(images)))

    @cached_property
    def real(self) -> np.ndarray:
        return self.scorer.image_features(real_pictures(self.config)).double().numpy()


def _lpips(config: Config) -> Callable[..., Any]:
    from redi.metrics.weights import lpips

    return lpips(_weights("lpips", config))


def _weights(kind: str, config: Config) -> Path:
    found = locate(kind, Path(config.metrics.weights), config.metrics.download)
    if isinstance(found, str):
        raise Missing(found)
    return found


NEEDS: dict[str, Callable[[Config], Any]] = {
    "evaluator": EvaluatorFeatures,
    "inception": InceptionFeatures,
    "clip": partial(ClipFeatures, "clip"),
    "pick": partial(ClipFeatures, "pick"),
    "hps": partial(ClipFeatures, "hps"),
    "lpips": _lpips,
}


class Needs:
    """The needs of one run, each loaded once."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self._found: dict[str, Any] = {}

    def load(self, name: str) -> Any:
        """A need by name; raises `Missing`."""
        if name not in self._found:
            self._found[name] = NEEDS[name](self.config)
        return self._found[name]
