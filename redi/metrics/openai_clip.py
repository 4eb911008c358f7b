"""CLIP score and features with a CLIP of OpenAI's layout, from a local folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from redi.lazy import Tensor, functional, torch

if TYPE_CHECKING:
    from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer


class ClipScorer:
    """A CLIP model with its own preprocessing.

    uint8 pictures are resized by Pillow's bicubic filter so that the shorter side fits, cut to the
    centre, rounded to uint8 by the resize, scaled to [0, 1] and normalised, all as the folder's
    preprocessor says.
    """

    def __init__(
        self, model: CLIPModel, tokenizer: CLIPTokenizer, processor: CLIPImageProcessor
    ) -> None:
        self.model, self.tokenizer, self.processor = model.eval(), tokenizer, processor

    @classmethod
    def load(cls, folder: Path) -> ClipScorer:
        """Read a folder that `save_pretrained` wrote."""
        from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer

        return cls(
            CLIPModel.from_pretrained(folder, local_files_only=True),
            CLIPTokenizer.from_pretrained(folder, local_files_only=True),
            CLIPImageProcessor.from_pretrained(folder, local_files_only=True),
        )

    def image_features(self, pictures: Sequence[np.ndarray]) -> Tensor:
        """Unit-length features (B, D) of uint8 pictures (H, W, 3)."""
        pixels = self.processor(images=list(pictures), return_tensors="pt")["pixel_values"]
        with torch.no_grad():
            pooled = self.model.vision_model(pixel_values=pixels).pooler_output
            return functional.normalize(self.model.visual_projection(pooled), dim=1)

    def text_features(self, captions: Sequence[str]) -> Tensor:
        """Unit-length features (B, D); captions are cut at the model's context."""
        tokens = self.tokenizer(list(captions), padding=True, truncation=True, return_tensors="pt")
        with torch.no_grad():
            pooled = self.model.text_model(
                input_ids=tokens.input_ids, attention_mask=tokens.attention_mask
            ).pooler_output
            return functional.normalize(self.model.text_projection(pooled), dim=1)

    def score(self, features: Tensor, captions: Sequence[str]) -> np.ndarray:
        """100 max(cosine, 0) of pictures' features (B, D) with their captions (B,).

        Scaled as torchmetrics does it.
        """
        cosine = (features * self.text_features(captions)).sum(1)
        return 100 * cosine.clamp(min=0).double().numpy()
