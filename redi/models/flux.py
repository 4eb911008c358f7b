"""Flux: a T5 and a pooled CLIP text, a rectified-flow transformer on 2 x 2 patches of latents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import FluxPipeline
from diffusers.pipelines.flux.pipeline_flux import calculate_shift
from torch import Tensor
from torch.nn import functional

from redi.errors import UsageError
from redi.models.family import FlowFamily, each
from redi.samplers.build import shifted


class Flux(FlowFamily):
    """Guidance is an input of the network; there is no second pass with a negative prompt.

    States are kept as pictures of latents (B, C, H, W), as the pipeline draws its noise, and packed
    into tokens for each network call.
    """

    pipeline_class = FluxPipeline
    patch = 2

    def __init__(self, pipeline: Any, *settings: Any) -> None:
        super().__init__(pipeline, *settings)
        if self.negative_prompt:
            raise UsageError(
                f"sampling.negative_prompt={self.negative_prompt!r} does nothing with Flux, which "
                "is not guided by a second pass: leave it empty"
            )
        if not self.network.config.guidance_embeds and self.guidance_scale > 1:
            raise UsageError(
                f"sampling.guidance_scale={self.guidance_scale} does nothing with this Flux model, "
                "which was distilled without guidance: set it to 1"
            )
        tokens = (self.latent_shape[1] // 2) ** 2
        self.scheduler_config = shifted(self.scheduler_config, tokens, calculate_shift)
        self.scheduler_config["even_sigmas"] = True

    @property
    def guided(self) -> bool:
        return False

    @property
    def own_side(self) -> int:
        return int(self.pipeline.default_sample_size)

    @property
    def latent_channels(self) -> int:
        return super().latent_channels // 4

    def encode(self, texts: list[str]) -> tuple[Tensor, ...]:
        states, pooled, _ = self.pipeline.encode_prompt(texts, device=self.network.device)
        return states, pooled  # (B, T, D), (B, P)

    def predict(self, latents: Tensor, timestep: Tensor, rows: Sequence[Tensor]) -> Tensor:
        states, pooled = rows
        patches = functional.pixel_unshuffle(latents, 2)  # (B, 4 C, H / 2, W / 2)
        axes = [torch.arange(n) for n in (1, *patches.shape[2:])]
        places = torch.cartesian_prod(*axes).to(states)  # (S, 3)
        guidance = None
        if self.network.config.guidance_embeds:
            guidance = torch.full((len(latents),), float(self.guidance_scale), device=states.device)
        tokens = self.network(
            hidden_states=patches.flatten(2).mT.contiguous(),  # (B, S, 4 C)
            timestep=each(timestep, latents).to(latents.dtype) / 1000,
            guidance=guidance,
            pooled_projections=pooled,
            encoder_hidden_states=states,
            txt_ids=torch.zeros(states.shape[1], 3).to(states),
            img_ids=places,
        ).sample
        return functional.pixel_shuffle(tokens.mT.reshape(patches.shape), 2)
