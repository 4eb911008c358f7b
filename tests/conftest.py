"""Small models that tests share."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from redi.config import Config, KBConfig, ModelConfig, SamplerConfig, SamplingConfig
from redi.embedded.diffusion import new_scheduler
from redi.embedded.tokenizer import MAX_TOKENS, train_tokenizer
from redi.models.text_to_image import TextToImageModel, load_pipeline

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Stable Diffusion pipeline with random weights and 4x8x8 latents, saved to disk."""
    torch.manual_seed(0)
    tokenizer = train_tokenizer()
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        projection_dim=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=MAX_TOKENS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=(16, 32),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=32,
        attention_head_dim=2,
        norm_num_groups=8,
    )
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(16, 16),
        latent_channels=4,
        norm_num_groups=8,
        sample_size=16,
    )
    folder = tmp_path_factory.mktemp("tiny") / "pipeline"
    StableDiffusionPipeline(
        vae=vae,
        text_encoder=CLIPTextModel(text),
        tokenizer=tokenizer,
        unet=unet,
        scheduler=new_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_model(tiny_folder: Path) -> TextToImageModel:
    pipeline = load_pipeline(tiny_folder, torch.float32, torch.device("cpu"))
    return TextToImageModel(pipeline, guidance_scale=2.5, batch_size=4)


@pytest.fixture
def tiny_config(tiny_folder: Path, tmp_path: Path) -> Config:
    """Ten steps, key step 2, eight trajectories in shards of four."""
    return Config(
        sampler=SamplerConfig(name="ddim"),
        sampling=SamplingConfig(steps=10, guidance_scale=2.5),
        model=ModelConfig(path=str(tiny_folder), batch_size=4),
        kb=KBConfig(root=str(tmp_path / "kb"), size=8, key_step=2, shard_size=4),
    )
