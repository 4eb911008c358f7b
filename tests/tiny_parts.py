"""Small parts with random weights that tiny pipelines are made of."""

from __future__ import annotations

from functools import cache
from typing import Any, TypeVar

from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    UNet2DConditionModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    T5Config,
    T5EncoderModel,
    UMT5Config,
    UMT5EncoderModel,
)

from redi.embedded.diffusion import new_scheduler
from redi.embedded.tokenizer import train_tokenizer

SIDE = 8  # of the latents
#: sizes of transformers on tokens that are patches of 2 x 2 latents, with three rotary axes
PACKED = {
    "in_channels": 16,
    "attention_head_dim": 16,
    "joint_attention_dim": 16,
    "axes_dims_rope": (4, 4, 8),
}
#: sizes of PixArt's transformers
PIXART = {
    "sample_size": SIDE,
    "patch_size": 2,
    "attention_head_dim": 8,
    "caption_channels": 16,
    "in_channels": 4,
    "cross_attention_dim": 16,
    "out_channels": 8,
}
tokenizer = cache(train_tokenizer)
Network = TypeVar("Network")


def scheduler(**changes: Any) -> DDIMScheduler:
    return DDIMScheduler.from_config(new_scheduler().config, **changes)


def flow(shift: float, by_size: bool = False) -> FlowMatchEulerDiscreteScheduler:
    return FlowMatchEulerDiscreteScheduler(shift=shift, use_dynamic_shifting=by_size)


def transformer(kind: type[Network], **sizes: Any) -> Network:
    """A network of one block with two heads."""
    return kind(num_layers=1, num_attention_heads=2, **sizes)


def square(side: int, **others: Any) -> dict[str, Any]:
    """Arguments of a call for square pictures with short prompts."""
    return {"height": side, "width": side, "max_sequence_length": 8, **others}


def clip(cls: type = CLIPTextModel, **changes: Any) -> Any:
    words = tokenizer()
    return cls(
        CLIPTextConfig(
            vocab_size=len(words),
            hidden_size=16,
            intermediate_size=32,
            projection_dim=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            bos_token_id=words.bos_token_id,
            eos_token_id=words.eos_token_id,
            pad_token_id=words.pad_token_id,
            **{"max_position_embeddings": words.model_max_length, **changes},
        )
    )


def t5(umt5: bool = False) -> T5EncoderModel | UMT5EncoderModel:
    model, config = (UMT5EncoderModel, UMT5Config) if umt5 else (T5EncoderModel, T5Config)
    return model(
        config(vocab_size=len(tokenizer()), d_model=16, d_ff=32, d_kv=8, num_layers=1, num_heads=2)
    )


def vae(channels: int = 4) -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        latent_channels=channels,
        norm_num_groups=4,
        sample_size=2 * SIDE,
        use_quant_conv=channels == 4,
        use_post_quant_conv=channels == 4,
        shift_factor=0.0,
    )


def unet(**changes: Any) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=SIDE,
        layers_per_block=1,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=2,
        norm_num_groups=4,
        **{"cross_attention_dim": 16, **changes},
    )
