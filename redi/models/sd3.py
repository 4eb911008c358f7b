"""Stable Diffusion 3: two CLIP encoders, an optional T5, a rectified-flow transformer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from diffusers import StableDiffusion3Pipeline
from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3 import calculate_shift
from torch import Tensor

from redi.errors import UsageError
from redi.models.family import FlowFamily, each
from redi.samplers.build import shifted


class StableDiffusion3(FlowFamily):
    pipeline_class = StableDiffusion3Pipeline
    optional_parts = ("text_encoder_3", "tokenizer_3")

    def __init__(self, pipeline: Any, *settings: Any) -> None:
        self.patch = int(pipeline.transformer.config.patch_size)
        super().__init__(pipeline, *settings)
        side = self.latent_shape[1] // self.patch
        most = int(self.network.config.pos_embed_max_size)
        if side > most:
            largest = most * self.patch * int(pipeline.vae_scale_factor)
            raise UsageError(
                f"model.size={side * largest // most} is more than this model has positions for: "
                f"use at most {largest}"
            )
        self.scheduler_config = shifted(self.scheduler_config, side * side, calculate_shift)

    def encode(self, texts: list[str]) -> tuple[Tensor, ...]:
        states, _, pooled, _ = self.pipeline.encode_prompt(
            texts, None, None, device=self.network.device, do_classifier_free_guidance=False
        )
        return states, pooled  # (B, T, D), (B, P)

    def predict(self, latents: Tensor, timestep: Tensor, rows: Sequence[Tensor]) -> Tensor:
        states, pooled = rows
        return self.network(
            hidden_states=latents,
            timestep=each(timestep, latents),
            encoder_hidden_states=states,
            pooled_projections=pooled,
        ).sample
