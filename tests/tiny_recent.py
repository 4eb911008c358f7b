"""Pipelines of 2024 to 2026, small and with random weights: transformers on rectified flows."""

from __future__ import annotations

from typing import Any, TypeVar

from diffusers import (
    AuraFlowPipeline,
    AuraFlowTransformer2DModel,
    AutoencoderDC,
    AutoencoderKLHunyuanVideo,
    AutoencoderKLQwenImage,
    AutoencoderKLWan,
    ChromaPipeline,
    ChromaTransformer2DModel,
    DPMSolverMultistepScheduler,
    HunyuanVideoPipeline,
    HunyuanVideoTransformer3DModel,
    Lumina2Pipeline,
    Lumina2Transformer2DModel,
    PixArtAlphaPipeline,
    PixArtTransformer2DModel,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    SanaPipeline,
    SanaTransformer2DModel,
    UniPCMultistepScheduler,
    WanPipeline,
    WanTransformer3DModel,
)
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
    vae,
)
from transformers import (
    Gemma2Config,
    Gemma2Model,
    LlamaConfig,
    LlamaModel,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
)

Autoencoder = TypeVar("Autoencoder")
SMALL = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 512,
}


def llama() -> LlamaModel:
    return LlamaModel(LlamaConfig(**SMALL, num_hidden_layers=3, vocab_size=len(tokenizer())))


def gemma() -> Gemma2Model:
    return Gemma2Model(
        Gemma2Config(**SMALL, num_hidden_layers=2, head_dim=8, vocab_size=len(tokenizer()))
    )


def qwen() -> Qwen2_5_VLForConditionalGeneration:
    text = {
        **SMALL,
        "num_hidden_layers": 2,
        "vocab_size": len(tokenizer()),
        "bos_token_id": None,
        "eos_token_id": None,
        "rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]},
    }
    vision = {
        "depth": 1,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_heads": 2,
        "out_hidden_size": 16,
        "fullatt_block_indexes": [0],
    }
    return Qwen2_5_VLForConditionalGeneration(
        Qwen2_5_VLConfig(text_config=text, vision_config=vision)
    )


def video_vae(kind: type[Autoencoder], halved: list[bool]) -> Autoencoder:
    """Of pictures or videos; `halved`: whether each level also halves the number of frames."""
    return kind(
        base_dim=8,
        z_dim=4,
        dim_mult=[1] * (len(halved) + 1),
        num_res_blocks=1,
        temperal_downsample=halved,
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
    )


def pixart_alpha() -> PixArtAlphaPipeline:
    return PixArtAlphaPipeline(
        tokenizer=tokenizer(),
        text_encoder=t5(),
        vae=vae(),
        transformer=transformer(
            PixArtTransformer2DModel, **PIXART, use_additional_conditions=False
        ),
        scheduler=scheduler(),
    )


def sana() -> SanaPipeline:
    return SanaPipeline(
        tokenizer=tokenizer(),
        text_encoder=gemma(),
        vae=AutoencoderDC(
            latent_channels=4,
            attention_head_dim=4,
            encoder_block_types=("ResBlock", "ResBlock"),
            decoder_block_types=("ResBlock", "ResBlock"),
            encoder_block_out_channels=(8, 8),
            decoder_block_out_channels=(8, 8),
            encoder_layers_per_block=(1, 1),
            decoder_layers_per_block=(1, 1),
            encoder_qkv_multiscales=((), ()),
            decoder_qkv_multiscales=((), ()),
        ),
        transformer=transformer(
            SanaTransformer2DModel,
            in_channels=4,
            out_channels=4,
            attention_head_dim=8,
            num_cross_attention_heads=2,
            cross_attention_head_dim=8,
            cross_attention_dim=16,
            caption_channels=16,
            sample_size=SIDE,
        ),
        scheduler=DPMSolverMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
        ),
    )


def qwen_image() -> QwenImagePipeline:
    pipe = QwenImagePipeline(
        scheduler=flow(3.0, by_size=True),
        vae=video_vae(AutoencoderKLQwenImage, [False]),
        text_encoder=qwen(),
        tokenizer=tokenizer(),
        transformer=transformer(QwenImageTransformer2DModel, **PACKED, out_channels=4),
    )
    pipe.prompt_template_encode, pipe.prompt_template_encode_start_idx = "{}", 0
    return pipe


def chroma() -> ChromaPipeline:
    return ChromaPipeline(
        scheduler=flow(3.0),
        vae=vae(4),
        text_encoder=t5(),
        tokenizer=tokenizer(),
        transformer=transformer(
            ChromaTransformer2DModel,
            **PACKED,
            num_single_layers=1,
            approximator_num_channels=8,
            approximator_hidden_dim=16,
            approximator_layers=1,
        ),
    )


def aura_flow() -> AuraFlowPipeline:
    return AuraFlowPipeline(
        tokenizer=tokenizer(),
        text_encoder=t5(),
        vae=vae(),
        transformer=AuraFlowTransformer2DModel(
            sample_size=SIDE,
            patch_size=2,
            num_mmdit_layers=1,
            num_single_dit_layers=1,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=16,
            caption_projection_dim=16,
            pos_embed_max_size=SIDE * SIDE,
        ),
        scheduler=flow(1.73),
    )


def lumina2() -> Lumina2Pipeline:
    return Lumina2Pipeline(
        transformer=transformer(
            Lumina2Transformer2DModel,
            sample_size=SIDE,
            in_channels=4,
            hidden_size=32,
            num_refiner_layers=1,
            num_kv_heads=1,
            multiple_of=16,
            axes_dim_rope=(4, 4, 8),
            axes_lens=(64, 32, 32),
            cap_feat_dim=16,
        ),
        scheduler=flow(6.0),
        vae=vae(),
        text_encoder=gemma(),
        tokenizer=tokenizer(),
    )


def hunyuan_video() -> HunyuanVideoPipeline:
    return HunyuanVideoPipeline(
        text_encoder=llama(),
        tokenizer=tokenizer(),
        transformer=transformer(
            HunyuanVideoTransformer3DModel,
            in_channels=4,
            out_channels=4,
            attention_head_dim=16,
            num_single_layers=1,
            num_refiner_layers=1,
            text_embed_dim=16,
            pooled_projection_dim=16,
            rope_axes_dim=(4, 4, 8),
        ),
        vae=AutoencoderKLHunyuanVideo(
            latent_channels=4,
            block_out_channels=(8,) * 4,
            layers_per_block=1,
            norm_num_groups=4,
        ),
        scheduler=flow(7.0),
        text_encoder_2=clip(max_position_embeddings=77),
        tokenizer_2=tokenizer(),
    )


def wan() -> WanPipeline:
    return WanPipeline(
        tokenizer=tokenizer(),
        text_encoder=t5(umt5=True),
        vae=video_vae(AutoencoderKLWan, [False, True, True]),
        scheduler=UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
        ),
        transformer=transformer(
            WanTransformer3DModel,
            attention_head_dim=12,
            in_channels=4,
            out_channels=4,
            text_dim=16,
            freq_dim=16,
            ffn_dim=32,
        ),
    )


RECENT: dict[str, Any] = {
    "PixArt-alpha": pixart_alpha,
    "Sana": sana,
    "Qwen-Image": qwen_image,
    "Chroma": chroma,
    "AuraFlow": aura_flow,
    "Lumina 2": lumina2,
    "HunyuanVideo": hunyuan_video,
    "Wan": wan,
}
RECENT_ARGUMENTS: dict[str, dict[str, Any]] = {
    "PixArt-alpha": square(2 * SIDE, use_resolution_binning=False, clean_caption=False),
    "Sana": square(32, use_resolution_binning=False, complex_human_instruction=None),
    "Qwen-Image": square(4 * SIDE, true_cfg_scale=1.0),
    "Chroma": square(4 * SIDE),
    "AuraFlow": square(2 * SIDE),
    "Lumina 2": {**square(4 * SIDE, system_prompt=""), "max_sequence_length": 24},
    "HunyuanVideo": square(64, num_frames=5, prompt_template={"template": "{}", "crop_start": 0}),
    "Wan": square(64, num_frames=5),
}
