"""The full-size Stable Diffusion 1.5 architecture with random weights: memory and shapes.

    python experiments/full_size/run.py [--steps 5] [--side 512] [--dtype bfloat16]

builds UNet (860 M parameters), CLIP ViT-L text encoder and VAE with the published dimensions,
records two trajectories of square pictures on the CPU, re-inserts one of them, and prints sizes,
seconds and the peak memory of the process.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from typing import Any

import torch
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

import redi
from redi.tasks.train_tokenizer import train_tokenizer


def build(dtype: torch.dtype) -> StableDiffusionPipeline:
    """Stable Diffusion 1.5 as published, but for its weights and its tokenizer's vocabulary."""
    torch.set_default_dtype(dtype)
    unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
    text = CLIPTextConfig(
        hidden_size=768,
        intermediate_size=3072,
        projection_dim=768,
        num_hidden_layers=12,
        num_attention_heads=12,
    )
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(128, 256, 512, 512),
        layers_per_block=2,
        latent_channels=4,
        sample_size=512,
    )
    encoder = CLIPTextModel(text)
    torch.set_default_dtype(torch.float32)
    scheduler = PNDMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        skip_prk_steps=True,
        steps_offset=1,
    )
    pipe = StableDiffusionPipeline(
        vae=vae.eval(),
        text_encoder=encoder.eval(),
        tokenizer=train_tokenizer(),
        unet=unet.eval(),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def main() -> None:
    """Record, re-insert, report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--side", type=int, default=512, help="pixels")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    options = parser.parse_args()
    torch.manual_seed(0)
    start = time.perf_counter()
    pipe = build(getattr(torch, options.dtype))
    parameters = sum(p.numel() for p in pipe.unet.parameters())
    print(
        f"UNet: {parameters / 1e6:.1f} M parameters; built in {time.perf_counter() - start:.0f} s"
    )
    call: dict[str, Any] = {
        "num_inference_steps": options.steps,
        "height": options.side,
        "width": options.side,
        "output_type": "latent",
    }
    key, value = 2, options.steps - 1
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        kb = redi.record(
            pipe,
            ["a red fox", "a blue car"],
            f"{folder}/kb",
            key_step=key,
            value_steps=[value],
            store_history=True,
            **call,
        )
        print(f"recorded 2 trajectories in {time.perf_counter() - start:.0f} s")
        print(f"latents {tuple(kb.column('step_0002', 'latents').shape[1:])}")
        print(f"{kb.disk_bytes / len(kb) / 1e3:.0f} kB per trajectory")
        plain = pipe("a red fox", generator=redi.generators(kb), **call).images
        with redi.enable(pipe, kb, value_step=value, resume="retrieved"):
            again = pipe("a red fox", generator=redi.generators(kb), **call).images
        print(
            f"own trajectory re-inserted: largest difference {float((plain - again).abs().max())}"
        )
        print(redi.summary(pipe))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"peak memory of the process: {peak:.1f} GB")


if __name__ == "__main__":
    main()
