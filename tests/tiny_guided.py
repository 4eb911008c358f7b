"""Stable Diffusion that is told pictures too, small and with random weights."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    ControlNetModel,
    StableDiffusionControlNetPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
)
from diffusers.models.attention_processor import IPAdapterAttnProcessor2_0
from diffusers.models.embeddings import ImageProjection, MultiIPAdapterImageProjection
from tiny_parts import SIDE, clip, scheduler, tokenizer, unet, vae

PIXELS = 2 * SIDE
TOKENS = 4  # that an IP-Adapter makes of one picture


def parts(**changes: Any) -> dict[str, Any]:
    """What all of these pipelines are made of."""
    return {
        "vae": vae(),
        "text_encoder": clip(),
        "tokenizer": tokenizer(),
        "unet": unet(),
        "scheduler": scheduler(),
        "safety_checker": None,
        "feature_extractor": None,
        "requires_safety_checker": False,
        **changes,
    }


def controlnet() -> StableDiffusionControlNetPipeline:
    network = ControlNetModel(
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=2,
        norm_num_groups=4,
        conditioning_embedding_out_channels=(8, 8),
    )
    for parameter in network.parameters():  # its last layers are zero where it begins to learn
        torch.nn.init.normal_(parameter, std=0.1)
    return StableDiffusionControlNetPipeline(**parts(controlnet=network))


def ip_adapter() -> StableDiffusionPipeline:
    network = unet()
    processors = dict(network.attn_processors)
    for name in processors:
        if "attn2" in name:
            layer = network.get_submodule(name.removesuffix(".processor"))
            processors[name] = IPAdapterAttnProcessor2_0(layer.inner_dim, 16, num_tokens=(TOKENS,))
    network.set_attn_processor(processors)
    network.encoder_hid_proj = MultiIPAdapterImageProjection([ImageProjection(16, 16, TOKENS)])
    network.register_to_config(encoder_hid_dim_type="ip_image_proj")
    return StableDiffusionPipeline(**parts(unet=network))


def image_to_image() -> StableDiffusionImg2ImgPipeline:
    return StableDiffusionImg2ImgPipeline(**parts())


def inpainting() -> StableDiffusionInpaintPipeline:
    return StableDiffusionInpaintPipeline(**parts(unet=unet(in_channels=9)))


def picture(seed: int = 0, channels: int = 3) -> torch.Tensor:
    """A picture of noise (1, channels, H, W) in [0, 1]."""
    start = torch.Generator().manual_seed(seed)
    return torch.rand((1, channels, PIXELS, PIXELS), generator=start)


GUIDED: dict[str, Any] = {
    "ControlNet on Stable Diffusion": controlnet,
    "IP-Adapter on Stable Diffusion": ip_adapter,
    "image to image, strength 1": image_to_image,
    "inpainting, strength 1": inpainting,
}
GUIDED_ARGUMENTS: dict[str, dict[str, Any]] = {
    "ControlNet on Stable Diffusion": {"image": picture()},
    "IP-Adapter on Stable Diffusion": {
        "ip_adapter_image_embeds": [picture()[:, :2, :1].transpose(0, 1)[:, :, 0]]
    },
    "image to image, strength 1": {"image": picture(), "strength": 1.0},
    "inpainting, strength 1": {
        "image": picture(),
        "mask_image": (picture(1, 1) > 0.5).float(),
        "strength": 1.0,
        "height": PIXELS,
        "width": PIXELS,
    },
}
