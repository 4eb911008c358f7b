"""CLIP score and features with a CLIP of OpenAI's layout, from a local folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from redi.lazy import Tensor, functional, torch
from redi.metrics.long_prompts import windows

if TYPE_CHECKING:
    from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer


class ClipScorer:
    """A CLIP model with its own preprocessing.

    uint8 pictures are resized by Pillow's bicubic filter so that the shorter side fits, cut to the
    centre, rounded to uint8 by the resize, scaled to [0, 1] and normalised, all as the folder's
    preprocessor says. Captions longer than the model's context (77 tokens of OpenAI's) are cut
    there, or scored by windows (`redi.metrics.long_prompts`).

    Args:
        long_prompts: cut | windows.
    """

    def __init__(
        self,
        model: CLIPModel,
        tokenizer: CLIPTokenizer,
        processor: CLIPImageProcessor,
        long_prompts: str = "cut",
    ) -> None:
        self.model, self.tokenizer, self.processor = model.eval(), tokenizer, processor
        self.long_prompts = long_prompts

    @classmethod
    def load(cls, folder: Path, long_prompts: str = "cut") -> ClipScorer:
        """Read a folder that `save_pretrained` wrote."""
        from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer

        return cls(
            CLIPModel.from_pretrained(folder, local_files_only=True),
            CLIPTokenizer.from_pretrained(folder, local_files_only=True),
            CLIPImageProcessor.from_pretrained(folder, local_files_only=True),
            long_prompts,
        )

    def image_features(self, pictures: Sequence[np.ndarray]) -> Tensor:
        """Unit-length features (B, D) of uint8 pictures (H, W, 3)."""
        pixels = self.processor(images=list(pictures), return_tensors="pt")["pixel_values"]
        with torch.no_grad():
            pooled = self.model.vision_model(pixel_values=pixels).pooler_output
            return functional.normalize(self.model.visual_projection(pooled), dim=1)

    def text_features(self, captions: Sequence[str]) -> Tensor:
        """Features (B, D): of unit length, or the means of windows' features of unit length."""
        if self.long_prompts == "windows":
            cut, counts = windows(self.tokenizer, captions)
            parts = self._texts(cut).split(counts)
            return torch.stack([part.mean(0) for part in parts])
        tokens = self.tokenizer(list(captions), padding=True, truncation=True, return_tensors="pt")
        return self._texts(tokens)

    def _texts(self, tokens: Mapping[str, Tensor]) -> Tensor:
        with torch.no_grad():
            pooled = self.model.text_model(
                input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
            ).pooler_output
            return functional.normalize(self.model.text_projection(pooled), dim=1)

    def cosine(self, features: Tensor, captions: Sequence[str]) -> Tensor:
        """Cosine (B,) of pictures' features (B, D) with their captions; of windows, their mean."""
        return (features * self.text_features(captions)).sum(1)

    def score(self, features: Tensor, captions: Sequence[str]) -> np.ndarray:
        """100 max(cosine, 0) of pictures' features (B, D) with their captions (B,).

        Scaled as torchmetrics does it.
        """
        return 100 * self.cosine(features, captions).clamp(min=0).double().numpy()

    def preference(self, features: Tensor, captions: Sequence[str]) -> np.ndarray:
        """The model's own logits (B,): cosines times its learned scale."""
        with torch.no_grad():
            scale = self.model.logit_scale.exp()
        return (scale * self.cosine(features, captions)).double().numpy()
