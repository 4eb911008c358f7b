"""Stage 3: a small CLIP that judges pictures, trained apart from the generator it will judge.

Pictures are float (B, 3, 64, 64) in [-1, 1] and get no other normalisation.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from redi.data.pixels import as_images
from redi.embedded.backgrounds import RESOLUTION
from redi.embedded.captions import Composition, prompts, say_all
from redi.embedded.scenes import ATTRIBUTES, Scene
from redi.embedded.stage_config import StageConfig
from redi.embedded.stream import Span, scene_batch, scene_batches
from redi.embedded.tokenizer import MAX_TOKENS
from redi.embedded.training import TrainingStage, grid
from redi.embedded.warm_start import carried_over
from redi.metrics.evaluator import ACCURACIES, Evaluator, tokenize
from redi.metrics.prompt_fidelity import attribute_hits

IMAGE_WIDTH = 128
PATCH = 8  # pixels
TEXT_WIDTH = 128
FEATURES = 64
MAX_LOGIT_SCALE = 4.6052  # log 100, as in CLIP
#: of the attributes in the loss; the second object is small and learnt last
WEIGHTS = {"second": 3.0}


def new_evaluator(tokenizer: CLIPTokenizer) -> CLIPModel:
    """An untrained CLIP for 64x64 pictures and scene captions, about 1.2 M parameters.

    The image tower starts with larger weights than CLIP's and with sine and cosine position
    embeddings; without them it stays a bag of patches for long, blind to place and size.
    """
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": TEXT_WIDTH,
        "intermediate_size": 4 * TEXT_WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": MAX_TOKENS,
        "hidden_act": "gelu",
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {
        "image_size": RESOLUTION,
        "patch_size": PATCH,
        "hidden_size": IMAGE_WIDTH,
        "intermediate_size": 2 * IMAGE_WIDTH,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "hidden_act": "gelu",
        "initializer_factor": 2.0,
    }
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=FEATURES)
    model = CLIPModel(config)
    positions = model.vision_model.embeddings.position_embedding.weight  # (1 + patches, D)
    with torch.no_grad():
        positions[1:] = 0.5 * _waves(RESOLUTION // PATCH, IMAGE_WIDTH)
    return model


def _waves(side: int, width: int) -> Tensor:
    """Position embeddings (side^2, width) in [-1, 1]: sines of the row, then of the column."""
    wavelengths = torch.logspace(2, 5, width // 4, base=2.0)  # 4 to 32 patches
    angles = 2 * torch.pi * torch.arange(side)[:, None] / wavelengths
    one = torch.cat([angles.sin(), angles.cos()], dim=1)  # (side, width / 2)
    rows, columns = one[:, None].expand(-1, side, -1), one[None].expand(side, -1, -1)
    return torch.cat([rows, columns], dim=2).flatten(0, 1)


class JudgedPool(NamedTuple):
    """Pictures, their captions, and the values of `ATTRIBUTES` that are shown and said."""

    pixels: Tensor  #                     uint8 (N, 64, 64, 3)
    tokens: Tensor  #                     int64 (N, T)
    shown: Tensor  #                      int64 (N, A)
    said: Tensor  #                       int64 (N, A)


class TrainEvaluator(TrainingStage[JudgedPool]):
    """CLIP's symmetric contrastive loss, plus the same loss per attribute.

    The attribute term matches a picture with the one caption, among one per value, that names its
    value and nothing else; it makes partial captions meaningful and needs fewer samples than
    whole captions do.
    """

    def __init__(self, config: StageConfig, seed: int, tokenizer: CLIPTokenizer) -> None:
        super().__init__(config, seed)
        self.tokenizer = tokenizer
        self.evaluator = new_evaluator(tokenizer)

    def start_with(self, evaluator: CLIPModel, tokenizer: CLIPTokenizer) -> None:
        """Take over weights of the same networks; words that are new start afresh."""
        known = carried_over(
            self.evaluator.state_dict(), evaluator.state_dict(), self.tokenizer, tokenizer
        )
        self.evaluator.load_state_dict(known)

    def span(self, number: int) -> Span:
        """Pools alternate between the splits `train` and `kb`; `query` stays unseen."""
        return replace(super().span(number), split=("train", "kb")[number % 2])

    def prepare(self, number: int) -> JudgedPool:
        parts = [
            JudgedPool(
                torch.from_numpy(batch.pixels),
                tokenize(self.tokenizer, batch.captions),
                values_of(batch.scenes),
                values_of(batch.said),
            )
            for batch in self.painters.batches(self.span(number))
        ]
        columns = (torch.cat(column).to(self.device) for column in zip(*parts, strict=True))
        return JudgedPool(*columns)

    def loss(self, pool: JudgedPool, rows: Tensor, seed: int) -> Tensor:
        rng = np.random.default_rng(seed)
        shown, said = pool.shown[rows], pool.said[rows]
        single = [text for name in ATTRIBUTES for text in single_captions(name, rng)]
        tokens = torch.cat([pool.tokens[rows], tokenize(self.tokenizer, single).to(self.device)])
        output = self.evaluator(input_ids=tokens, pixel_values=as_images(pool.pixels[rows]))
        scale = self.evaluator.logit_scale.clamp(max=MAX_LOGIT_SCALE).exp()
        logits = scale * output.image_embeds.float() @ output.text_embeds.float().T  # (B, B + V)
        count = len(rows)
        diagonal = torch.arange(count, device=self.device)
        pairs, values = logits.split([count, len(single)], dim=1)
        also_fits = fits(shown, said) & ~torch.eye(count, device=self.device).bool()
        pairs = pairs.masked_fill(also_fits, -torch.inf)
        total = (F.cross_entropy(pairs, diagonal) + F.cross_entropy(pairs.T, diagonal)) / 2
        sizes = [len(options) for options in ATTRIBUTES.values()]
        for column, (name, chosen) in enumerate(
            zip(ATTRIBUTES, values.split(sizes, dim=1), strict=True)
        ):
            wanted = shown[:, column]
            losses = F.cross_entropy(chosen, wanted, ignore_index=-1, reduction="sum")
            weight = WEIGHTS.get(name, 1.0)
            total = total + weight * losses / (wanted >= 0).sum().clamp(min=1)
        return total

    @torch.no_grad()
    def sheet(self) -> np.ndarray:
        """Ten held-out pictures nearest to each of a few captions, best first, a row each."""
        evaluator = Evaluator(self.evaluator, self.tokenizer)
        images = scene_batch("query", 0, 256, seed=1).images
        captions = prompts("query", 6)[1]
        similarity = evaluator.text_features(captions) @ evaluator.image_features(images).T
        return grid(images[similarity.topk(10).indices.flatten().cpu()], 10)


def single_captions(attribute: str, rng: np.random.Generator) -> list[str]:
    """One caption per value of `attribute` that says nothing else, in the wording of `rng`."""
    return [
        replace(Composition(), **{attribute: value}).caption(rng)  # type: ignore[arg-type]
        for value in ATTRIBUTES[attribute]
    ]


def values_of(described: Sequence[Scene | Composition]) -> Tensor:
    """Position of each value in its list in `ATTRIBUTES`, -1 for none: int64 (B, A)."""
    return torch.tensor(
        [
            [
                -1 if getattr(one, name) is None else options.index(getattr(one, name))
                for name, options in ATTRIBUTES.items()
            ]
            for one in described
        ]
    )


def fits(shown: Tensor, said: Tensor) -> Tensor:
    """Which scene (rows) shows what a caption (columns) says of it: bool (B, C).

    Args:
        shown: values of the scenes (B, A), as `values_of` gives them.
        said: values that the captions say (C, A).
    """
    return ((shown[:, None] == said[None]) | (said[None] < 0)).all(2)


def measure(model: CLIPModel, tokenizer: CLIPTokenizer, count: int = 2000) -> dict[str, float]:
    """Zero-shot accuracy on `count` real scenes of the split `query`.

    One number per attribute, and `all`: the share of scenes with every attribute right.
    """
    evaluator = Evaluator(model, tokenizer)
    hits = [
        attribute_hits(batch.images, [say_all(scene) for scene in batch.scenes], evaluator)
        for batch in scene_batches("query", count, seed=3)
    ]
    return {name: float(np.nanmean(np.concatenate([h[name] for h in hits]))) for name in hits[0]}


def finish(
    model: CLIPModel, tokenizer: CLIPTokenizer, folder: Path, count: int = 2000
) -> dict[str, float]:
    """Write `folder` for `Evaluator.load` (half precision) and measure what a fresh load gives.

    The accuracies become part of the folder, so that a score can state its evaluator's ceiling.
    """
    half = {name: weight.half() for name, weight in model.state_dict().items()}
    model.save_pretrained(folder, state_dict=half)
    tokenize(tokenizer, [""])  # it writes down how it last padded, if it ever did
    tokenizer.save_pretrained(folder)
    fresh = Evaluator.load(folder)
    accuracies = measure(fresh.model, fresh.tokenizer, count)
    (folder / ACCURACIES).write_text(json.dumps(accuracies, indent=2) + "\n")
    return accuracies
