"""The embedded domain's judge: a small CLIP that is independent of the generator.

Pictures are float (B, 3, 64, 64) in [-1, 1] and get no other normalisation.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from redi.embedded.atlas import ASSETS
from redi.embedded.captions import Composition
from redi.embedded.scenes import ATTRIBUTES
from redi.lazy import Tensor, functional, torch

if TYPE_CHECKING:
    from transformers import CLIPModel, CLIPTokenizer

EMBEDDED_EVALUATOR = ASSETS / "emoji-clip"
CHUNK = 64  # every network call sees this many rows, so no result depends on its neighbours
CAPTIONS_PER_VALUE = 16
ACCURACIES = "accuracies.json"
_NEEDED = ("config.json", "model.safetensors", "tokenizer.json")


def tokenize(tokenizer: CLIPTokenizer, captions: Sequence[str]) -> Tensor:
    """Token ids int64 (B, T), padded and cut to the tokenizer's own length T."""
    return tokenizer(
        list(captions), padding="max_length", truncation=True, return_tensors="pt"
    ).input_ids


class Evaluator:
    """Features, scores and zero-shot labels of a CLIP model for scenes.

    `accuracies` holds the model's own zero-shot accuracy on real held-out scenes, per attribute
    and for `all` of them at once (empty where unknown): the ceiling of every score made with it.
    """

    def __init__(
        self,
        model: CLIPModel,
        tokenizer: CLIPTokenizer,
        accuracies: dict[str, float] | None = None,
    ) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.accuracies = accuracies or {}
        self._prototypes: dict[str, Tensor] = {}

    @classmethod
    def load(cls, folder: Path | str, device: torch.device | str = "cpu") -> Evaluator:
        """Load a folder that `redi.embedded.evaluator.finish` wrote."""
        from transformers import CLIPModel, CLIPTokenizer

        folder = Path(folder)
        missing = [name for name in _NEEDED if not (folder / name).is_file()]
        if missing:
            raise ValueError(
                f"evaluator folder {str(folder)!r} lacks {', '.join(missing)}; "
                "give the folder that the evaluator's training stage wrote"
            )
        model = CLIPModel.from_pretrained(folder, dtype=torch.float32)
        record = folder / ACCURACIES
        accuracies = json.loads(record.read_text()) if record.is_file() else None
        model.to(device)  # type: ignore[arg-type]
        return cls(model, CLIPTokenizer.from_pretrained(folder), accuracies)

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def side(self) -> int:
        """Pixels of a side of the pictures that it reads."""
        return int(self.model.config.vision_config.image_size)

    @property
    def dimension(self) -> int:
        """Number of features D."""
        return int(self.model.config.projection_dim)

    def image_features(self, images: Tensor) -> Tensor:
        """Unit-length features float32 (B, D) of pictures (B, 3, H, W) in [-1, 1]."""
        side = self.side
        if images.ndim != 4 or tuple(images.shape[1:]) != (3, side, side):
            raise ValueError(
                f"images have shape {tuple(images.shape)}; give (B, 3, {side}, {side})"
            )
        if not images.is_floating_point():
            raise ValueError(f"images have dtype {images.dtype}; give floats in [-1, 1]")
        if images.numel() and float(images.abs().max()) > 1.01:
            raise ValueError(
                f"images reach {float(images.abs().max()):.3g} in absolute value; "
                "scale them to [-1, 1]"
            )

        def tower(chunk: Tensor) -> Tensor:
            pooled = self.model.vision_model(pixel_values=chunk).pooler_output
            return self.model.visual_projection(pooled)

        return self._in_chunks(tower, images.to(self.device, torch.float32))

    def text_features(self, captions: Sequence[str]) -> Tensor:
        """Unit-length features float32 (B, D) of captions."""

        def tower(chunk: Tensor) -> Tensor:
            pooled = self.model.text_model(input_ids=chunk).pooler_output
            return self.model.text_projection(pooled)

        if isinstance(captions, str):
            raise ValueError(f"captions is the string {captions!r}; give a list of strings")
        if not captions:
            return torch.empty(0, self.dimension, device=self.device)
        return self._in_chunks(tower, tokenize(self.tokenizer, captions).to(self.device))

    def prototypes(self, attribute: str) -> Tensor:
        """Unit-length text features (V, D), one for each value in `ATTRIBUTES[attribute]`.

        Each is the mean over random wordings of captions that say the value and nothing else, so
        it does not depend on the other attributes.
        """
        if attribute not in ATTRIBUTES:
            known = ", ".join(ATTRIBUTES)
            raise ValueError(f"attribute {attribute!r} is unknown; use one of {known}")
        if attribute not in self._prototypes:
            values = ATTRIBUTES[attribute]
            captions = [text for value in values for text in _captions(attribute, value)]
            means = self.text_features(captions).unflatten(0, (len(values), -1)).mean(1)
            self._prototypes[attribute] = functional.normalize(means, dim=1)
        return self._prototypes[attribute]

    def predict(self, images: Tensor) -> dict[str, list[str]]:
        """Per attribute, the value whose prototype is nearest to each picture."""
        return self.read(self.image_features(images))

    def read(self, features: Tensor) -> dict[str, list[str]]:
        """As `predict`, from the pictures' features (B, D)."""
        return {
            name: [values[i] for i in (features @ self.prototypes(name).T).argmax(1).tolist()]
            for name, values in ATTRIBUTES.items()
        }

    def clip_score(self, images: Tensor, captions: Sequence[str]) -> Tensor:
        """100 max(cosine, 0) of each picture with its caption (B,), as torchmetrics scales it."""
        return self.score(self.image_features(images), captions)

    def score(self, features: Tensor, captions: Sequence[str]) -> Tensor:
        """As `clip_score`, from the pictures' features (B, D)."""
        if len(features) != len(captions):
            raise ValueError(
                f"captions has {len(captions)} entries for {len(features)} images; "
                "give one for each"
            )
        cosine = (features * self.text_features(captions)).sum(1)
        return 100 * cosine.clamp(min=0)

    def _in_chunks(self, tower: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
        features = [torch.empty(0, self.dimension, device=self.device)]
        for chunk in rows.split(CHUNK) if len(rows) else ():
            padded = torch.cat([chunk, chunk[:1].expand(CHUNK - len(chunk), *chunk.shape[1:])])
            with torch.no_grad():
                found = tower(padded)[: len(chunk)].float()
            features.append(functional.normalize(found, dim=1))
        return torch.cat(features)


def _captions(attribute: str, value: str) -> list[str]:
    one: dict[str, Any] = {attribute: value}
    said = Composition(**one)
    return [said.caption(np.random.default_rng([23, i])) for i in range(CAPTIONS_PER_VALUE)]
