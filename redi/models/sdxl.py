"""Stable Diffusion XL: two text encoders, and a UNet that is also told sizes and a pooled text."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers import StableDiffusionXLPipeline
from torch import Tensor

from redi.models.family import UNetFamily


class StableDiffusionXL(UNetFamily):
    """The original and the target size are the picture's own, nothing is cropped."""

    pipeline_class = StableDiffusionXLPipeline

    def encode(self, texts: list[str]) -> tuple[Tensor, ...]:
        states, _, pooled, _ = self.pipeline.encode_prompt(
            texts, device=self.network.device, do_classifier_free_guidance=False
        )
        return states, pooled  # (B, T, D), (B, P)

    def encode_negative(self, count: int) -> tuple[Tensor, ...]:
        """Where the pipeline says so, no negative prompt is zeros and not an encoded blank."""
        found = super().encode_negative(count)
        zeros = not self.negative_prompt and self.pipeline.config.force_zeros_for_empty_prompt
        return tuple(torch.zeros_like(item) for item in found) if zeros else found

    def predict(self, latents: Tensor, timestep: Tensor, rows: Sequence[Tensor]) -> Tensor:
        states, pooled = rows
        side = [int(self.pipeline.vae_scale_factor) * n for n in latents.shape[2:]]
        sizes = torch.tensor([[*side, 0, 0, *side]], dtype=states.dtype, device=latents.device)
        added = {"text_embeds": pooled, "time_ids": sizes.repeat(len(latents), 1)}  # (B, 6)
        return self.network(latents, timestep, states, added_cond_kwargs=added).sample

    def decode(self, latents: Tensor) -> Tensor:
        """In float32 where half precision would overflow, as the decoder's configuration says."""
        own = self.vae.dtype
        if own != torch.float16 or not self.vae.config.force_upcast:
            return super().decode(latents)
        self.vae.to(torch.float32)
        try:
            return super().decode(latents)
        finally:
            self.vae.to(own)

    def unscaled(self, latents: Tensor) -> Tensor:
        mean, deviation = (
            getattr(self.vae.config, name, None) for name in ("latents_mean", "latents_std")
        )
        if mean is None or deviation is None:
            return super().unscaled(latents)
        mean, deviation = (
            torch.tensor(value).view(1, -1, 1, 1).to(latents) for value in (mean, deviation)
        )
        return latents * deviation / self.vae.config.scaling_factor + mean
