"""Stage 2: the text encoder and the UNet, trained together to predict the velocity."""

from __future__ import annotations

from collections.abc import Iterable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from redi.data.pixels import as_images
from redi.embedded.captions import prompts
from redi.embedded.stage_config import StageConfig
from redi.embedded.tokenizer import MAX_TOKENS
from redi.embedded.training import TrainingStage, grid
from redi.embedded.warm_start import carried_over
from redi.metrics.evaluator import tokenize

CAPTION_DROPOUT = 0.1
EMA_DECAY = 0.998
SHEET = 48  # prompts
WIDTH = 128  # of the text encoder
_ANY_BACKEND = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


def new_scheduler() -> DDIMScheduler:
    """The noise schedule of Stable Diffusion v1, with velocity prediction as in v2.

    At high noise a velocity is the (negated) clean picture, which fixes colour and place; a noise
    prediction would have to carry it in its last few per cent.
    """
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="v_prediction",
    )


def new_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """An untrained text encoder for the captions."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=4 * WIDTH,
            projection_dim=WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=MAX_TOKENS,
            hidden_act="gelu",
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def new_unet() -> UNet2DConditionModel:
    """An untrained UNet: most of its weights at 8x8 and 4x4, where they cost a CPU little."""
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=(64, 128, 256),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=WIDTH,
        attention_head_dim=4,  # the number of heads, in spite of its name
        norm_num_groups=32,
    )


@torch.no_grad()
def moving_average(averages: Iterable[Tensor], current: Iterable[Tensor], step: int) -> None:
    """Update `step` (from 1) of the moving average, in place; it forgets faster at first."""
    weight = 1 - min(EMA_DECAY, step / (9 + step)) if step > 1 else 1.0
    torch._foreach_lerp_(list(averages), list(current), weight)


class Denoiser(torch.nn.Module):
    """Text encoder and UNet as one module, so that one average covers both."""

    def __init__(self, tokenizer: CLIPTokenizer) -> None:
        super().__init__()
        self.text_encoder = new_text_encoder(tokenizer)
        self.unet = new_unet()
        self.unet.to(memory_format=torch.channels_last)  # type: ignore[call-arg]

    def forward(self, latents: Tensor, timesteps: Tensor, tokens: Tensor) -> Tensor:
        states = self.text_encoder(tokens).last_hidden_state  # (B, T, D)
        return self.unet(latents, timesteps, states).sample  # (B, 4, 16, 16)


@dataclass(frozen=True)
class LatentPool:
    """Encoded scenes: latents (N, 4, 16, 16), token ids (N, T)."""

    latents: Tensor
    tokens: Tensor


class TrainDiffusion(TrainingStage[LatentPool]):
    """Mean squared error of the velocity, uniform timesteps, caption dropout."""

    def __init__(
        self,
        config: StageConfig,
        seed: int,
        tokenizer: CLIPTokenizer,
        autoencoder: AutoencoderKL,
    ) -> None:
        super().__init__(config, seed)
        self.tokenizer = tokenizer
        self.silent = self.tokens([""])  # (1, T)
        self.denoiser = Denoiser(tokenizer)
        self.average = deepcopy(self.denoiser).requires_grad_(False)
        self.scheduler = new_scheduler()
        self._fixed = (autoencoder.eval().requires_grad_(False),)  # no part of the checkpoint

    @property
    def autoencoder(self) -> AutoencoderKL:
        return self._fixed[0]

    def start_with(
        self, text_encoder: CLIPTextModel, unet: UNet2DConditionModel, tokenizer: CLIPTokenizer
    ) -> None:
        """Take over weights of the same networks; words that are new start afresh."""
        known = carried_over(
            self.denoiser.text_encoder.state_dict(),
            text_encoder.state_dict(),
            self.tokenizer,
            tokenizer,
        )
        self.denoiser.text_encoder.load_state_dict(known)
        self.denoiser.unet.load_state_dict(unet.state_dict())
        self.average.load_state_dict(self.denoiser.state_dict())

    def tokens(self, captions: list[str]) -> Tensor:
        return tokenize(self.tokenizer, captions)

    @torch.no_grad()
    def prepare(self, number: int) -> LatentPool:
        latents, tokens = [], []
        self.autoencoder.to(self.device)  # type: ignore[arg-type]
        for batch in self.painters.batches(self.span(number)):
            images = as_images(torch.from_numpy(batch.pixels).to(self.device))
            with torch.autocast(self.device.type, torch.bfloat16):
                posterior = self.autoencoder.encode(images).latent_dist
            latents.append(posterior.mode().float() * self.autoencoder.config["scaling_factor"])
            tokens.append(self.tokens(batch.captions))
        return LatentPool(torch.cat(latents), torch.cat(tokens).to(self.device))

    def loss(self, pool: LatentPool, rows: Tensor, seed: int) -> Tensor:
        latents, device = pool.latents[rows], self.device
        count = len(latents)
        draws: dict[str, Any] = {
            "generator": torch.Generator(device).manual_seed(seed),
            "device": device,
        }
        noise = torch.randn(latents.shape, **draws)
        # One timestep in each of `count` equal strata: the same law, a calmer gradient.
        strata = torch.arange(count, device=device) + torch.rand(count, **draws)
        timesteps: Any = (strata * 1000 / count).long().clamp(max=999)
        dropped = torch.rand(count, **draws) < CAPTION_DROPOUT
        tokens = torch.where(dropped[:, None], self.silent.to(device), pool.tokens[rows])
        noisy: Any = self.scheduler.add_noise(latents, noise, timesteps)  # type: ignore[arg-type]
        target = self.scheduler.get_velocity(latents, noise, timesteps)  # type: ignore[arg-type]
        noisy = noisy.contiguous(memory_format=torch.channels_last)
        # On a CPU the fused backward of short sequences is slower than plain matrix products.
        with sdpa_kernel([SDPBackend.MATH] if device.type == "cpu" else _ANY_BACKEND):
            predicted = self.denoiser(noisy, timesteps, tokens)
        return F.mse_loss(predicted.float(), target)

    def trained_parameters(self) -> list[torch.nn.Parameter]:
        return list(self.denoiser.parameters())

    def after_step(self, step: int) -> None:
        moving_average(self.average.parameters(), self.denoiser.parameters(), step)

    def pipeline(self) -> StableDiffusionPipeline:
        """The averaged weights as a plain Stable Diffusion pipeline."""
        parts: dict[str, Any] = {
            "vae": self.autoencoder,
            "text_encoder": self.average.text_encoder,
            "tokenizer": self.tokenizer,
            "unet": self.average.unet,
            "scheduler": self.scheduler,
            "safety_checker": None,
            "feature_extractor": None,
        }
        return StableDiffusionPipeline(**parts, requires_safety_checker=False)

    @torch.no_grad()
    def sheet(self) -> np.ndarray:
        pipeline = self.pipeline()
        pipeline.set_progress_bar_config(disable=True)
        captions = prompts("query", SHEET)[1]
        pictures = pipeline(
            captions,
            num_inference_steps=20,
            guidance_scale=7.5,
            generator=[torch.Generator().manual_seed(i) for i in range(len(captions))],
            output_type="pt",
            height=64,
            width=64,
        ).images
        return grid(pictures * 2 - 1, 12)
