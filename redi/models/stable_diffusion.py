"""Stable Diffusion 1.x and 2.x: one CLIP text encoder, a UNet."""

from __future__ import annotations

from collections.abc import Sequence

from diffusers import StableDiffusionPipeline
from torch import Tensor

from redi.models.family import UNetFamily


class StableDiffusion(UNetFamily):
    pipeline_class = StableDiffusionPipeline

    def encode(self, texts: list[str]) -> tuple[Tensor, ...]:
        states, _ = self.pipeline.encode_prompt(
            texts, self.network.device, num_images_per_prompt=1, do_classifier_free_guidance=False
        )
        return (states,)  # (B, T, D)

    def predict(self, latents: Tensor, timestep: Tensor, rows: Sequence[Tensor]) -> Tensor:
        return self.network(latents, timestep, rows[0]).sample
