"""Small parts with random weights that tiny pipelines are made of."""

from __future__ import annotations

from functools import cache
from typing import Any

from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
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
tokenizer = cache(train_tokenizer)


def scheduler(**changes: Any) -> DDIMScheduler:
    return DDIMScheduler.from_config(new_scheduler().config, **changes)


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
