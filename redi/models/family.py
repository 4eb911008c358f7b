"""What one family of diffusers pipelines does in its own way."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from redi.errors import UsageError


class Family(ABC):
    """One loaded pipeline: prompts to tensors, one network call, latents to pictures.

    All of it row by row: `TextToImageModel` chooses the batches, guides and counts.

    Args:
        pipeline: the pipeline, on its device.
        size: side of the pictures in pixels; None: the model's own.
        guidance_scale: for networks that take it as an input; others are guided from outside.
        negative_prompt: to be refused where nothing is guided away from it.
    """

    #: class of the pipelines, as model_index.json names it
    pipeline_class: Any
    #: parts that a saved pipeline may lack
    optional_parts: tuple[str, ...] = ()
    #: attribute of the pipeline that predicts
    network_name = "transformer"
    #: latent rows and columns that make one token: sides are multiples of it
    patch = 1

    def __init__(
        self, pipeline: Any, size: int | None, guidance_scale: float, negative_prompt: str
    ) -> None:
        self.pipeline, self.guidance_scale = pipeline, guidance_scale
        self.negative_prompt = negative_prompt
        self.network: Any = getattr(pipeline, self.network_name)
        self.vae = pipeline.vae
        for part in pipeline.components.values():
            if isinstance(part, nn.Module):
                part.eval()
        stride = int(pipeline.vae_scale_factor) * self.patch
        if size is not None and (size < stride or size % stride):
            raise UsageError(
                f"model.size={size} does not fit this model: use a multiple of {stride} pixels"
            )
        side = self.own_side if size is None else size // int(pipeline.vae_scale_factor)
        self.latent_shape = (self.latent_channels, side, side)
        self.scheduler_config: dict[str, Any] = dict(pipeline.scheduler.config)

    @property
    def guided(self) -> bool:
        """Whether each call also evaluates the negative prompt (the rule of diffusers)."""
        return self.guidance_scale > 1

    @property
    def own_side(self) -> int:
        """Rows of the latents that the model was trained on."""
        return int(self.network.config.sample_size)

    @property
    def latent_channels(self) -> int:
        return int(self.network.config.in_channels)

    @property
    def embedding_size(self) -> int:
        """Width of the token states that `encode` returns first."""
        return int(self.network.config.joint_attention_dim)

    @abstractmethod
    def encode(self, texts: list[str]) -> tuple[Tensor, ...]:
        """What the network needs of each text: token states (B, T, D), then whatever else."""

    def encode_negative(self, count: int) -> tuple[Tensor, ...]:
        """The negative prompt `count` times."""
        return self.encode([self.negative_prompt] * count)

    @abstractmethod
    def predict(self, latents: Tensor, timestep: Tensor, rows: Sequence[Tensor]) -> Tensor:
        """One network call on latents (B, C, H, W) and encoded texts; shaped like the latents."""

    def decode(self, latents: Tensor) -> Tensor:
        """Pictures (B, 3, H', W') of latents (B, C, H, W), about -1 to 1."""
        return self.vae.decode(self.unscaled(latents.to(self.vae.dtype))).sample

    def unscaled(self, latents: Tensor) -> Tensor:
        """Latents as the decoder wants them."""
        return latents / self.vae.config.scaling_factor


class UNetFamily(Family):
    """Pipelines around a UNet with cross attention."""

    network_name = "unet"

    def __init__(self, pipeline: Any, *settings: Any) -> None:
        super().__init__(pipeline, *settings)
        if self.network.config.time_cond_proj_dim is not None:
            raise UsageError(
                "this model's UNet takes the guidance scale as an input (a distilled model), which "
                "redi's own loop does not give it: use redi.enable on its pipeline"
            )

    @property
    def embedding_size(self) -> int:
        return int(self.network.config.cross_attention_dim)


class FlowFamily(Family):
    """Rectified-flow transformers, whose decoders also shift."""

    def unscaled(self, latents: Tensor) -> Tensor:
        return latents / self.vae.config.scaling_factor + self.vae.config.shift_factor


def each(timestep: Tensor, latents: Tensor) -> Tensor:
    """One timestep per row (B,), as transformers want it."""
    return torch.as_tensor(timestep, device=latents.device).expand(len(latents))
