"""Every supported pipeline, small and with random weights, made of its real component classes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from diffusers import (
    DDPMPipeline,
    FluxPipeline,
    FluxTransformer2DModel,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DModel,
)
from tiny_guided import GUIDED, GUIDED_ARGUMENTS
from tiny_parts import (
    PACKED,
    PIXART,
    SIDE,
    clip,
    flow,
    scheduler,
    square,
    t5,
    tokenizer,
    transformer,
    unet,
    vae,
)
from tiny_recent import RECENT, RECENT_ARGUMENTS
from transformers import CLIPTextModelWithProjection


def stable_diffusion(prediction_type: str = "epsilon") -> StableDiffusionPipeline:
    return StableDiffusionPipeline(
        vae=vae(),
        text_encoder=clip(),
        tokenizer=tokenizer(),
        unet=unet(),
        scheduler=scheduler(prediction_type=prediction_type),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def sdxl() -> StableDiffusionXLPipeline:
    return StableDiffusionXLPipeline(
        vae=vae(),
        text_encoder=clip(),
        text_encoder_2=clip(CLIPTextModelWithProjection),
        tokenizer=tokenizer(),
        tokenizer_2=tokenizer(),
        unet=unet(
            cross_attention_dim=32,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=6 * 8 + 16,
        ),
        scheduler=scheduler(),
        add_watermarker=False,
    )


def sd3() -> StableDiffusion3Pipeline:
    return StableDiffusion3Pipeline(
        transformer=transformer(
            SD3Transformer2DModel,
            sample_size=SIDE,
            patch_size=1,
            in_channels=16,
            attention_head_dim=8,
            caption_projection_dim=16,
            joint_attention_dim=32,
            pooled_projection_dim=32,
            out_channels=16,
            pos_embed_max_size=SIDE,
        ),
        scheduler=flow(3.0),
        vae=vae(16),
        text_encoder=clip(CLIPTextModelWithProjection),
        tokenizer=tokenizer(),
        text_encoder_2=clip(CLIPTextModelWithProjection),
        tokenizer_2=tokenizer(),
        text_encoder_3=None,
        tokenizer_3=None,
    )


def flux() -> FluxPipeline:
    return FluxPipeline(
        scheduler=flow(3.0, by_size=True),
        vae=vae(4),
        text_encoder=clip(),
        tokenizer=tokenizer(),
        text_encoder_2=t5(),
        tokenizer_2=tokenizer(),
        transformer=transformer(
            FluxTransformer2DModel,
            **PACKED,
            patch_size=1,
            num_single_layers=1,
            pooled_projection_dim=16,
            guidance_embeds=True,
        ),
    )


def pixart() -> PixArtSigmaPipeline:
    return PixArtSigmaPipeline(
        tokenizer=tokenizer(),
        text_encoder=t5(),
        vae=vae(),
        transformer=transformer(PixArtTransformer2DModel, **PIXART),
        scheduler=scheduler(),
    )


def ddpm() -> DDPMPipeline:
    network = UNet2DModel(
        sample_size=SIDE,
        layers_per_block=1,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
        attention_head_dim=4,
    )
    return DDPMPipeline(network, scheduler())


PIPELINES: dict[str, Callable[[], Any]] = {
    "Stable Diffusion 1.x": stable_diffusion,
    "Stable Diffusion 2.x (v-prediction)": lambda: stable_diffusion("v_prediction"),
    "SDXL": sdxl,
    "Stable Diffusion 3": sd3,
    "Flux": flux,
    "PixArt-Sigma": pixart,
    **RECENT,
    **GUIDED,
    "unconditional DDPM pipeline": ddpm,
}
#: arguments that each needs to make small pictures of latents
ARGUMENTS: dict[str, dict[str, Any]] = {
    "Stable Diffusion 3": square(2 * SIDE),
    "Flux": square(4 * SIDE),
    "PixArt-Sigma": square(2 * SIDE, use_resolution_binning=False, clean_caption=False),
    **RECENT_ARGUMENTS,
    **GUIDED_ARGUMENTS,
}


def build(name: str) -> Any:
    """The named pipeline with weights from a fixed seed, silent."""
    torch.manual_seed(0)
    pipe = PIPELINES[name]()
    for module in pipe.components.values():
        if isinstance(module, torch.nn.Module):
            module.eval()
    pipe.set_progress_bar_config(disable=True)
    return pipe
