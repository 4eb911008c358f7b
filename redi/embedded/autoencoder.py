"""Stage 1: the autoencoder, 64x64 pictures to 4x16x16 latents."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor
from torch.nn import functional as F

from redi.embedded.stream import SceneBatch, SceneStream, loader
from redi.embedded.training import StageConfig, TrainingStage, grid

KL_WEIGHT = 1e-6


def new_autoencoder() -> AutoencoderKL:
    """An untrained autoencoder, small enough to decode faster than one denoising step."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(48, 48, 48),
        layers_per_block=0,  # the decoder always has one more
        latent_channels=4,
        norm_num_groups=16,
        sample_size=64,
    )


class TrainAutoencoder(TrainingStage):
    """Absolute plus squared error, with a faint pull of the posterior towards a normal."""

    def __init__(self, config: StageConfig, seed: int, sheets: Path | None = None) -> None:
        super().__init__(config, seed, sheets)
        self.autoencoder = new_autoencoder()
        self.autoencoder.to(memory_format=torch.channels_last)  # type: ignore[call-arg]

    def loss(self, batch: SceneBatch, generator: torch.Generator) -> Tensor:
        images = batch.images.contiguous(memory_format=torch.channels_last)
        posterior = self.autoencoder.encode(images).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=generator).to(images)
        decoded = self.autoencoder.decode(posterior.mean + posterior.std * noise).sample.float()
        kl = posterior.kl().mean()
        return F.l1_loss(decoded, images) + F.mse_loss(decoded, images) + KL_WEIGHT * kl

    @torch.no_grad()
    def sheet(self) -> np.ndarray:
        images = _held_out(12).to(self.device)
        decoded = self.autoencoder.decode(self.autoencoder.encode(images).latent_dist.mode()).sample
        return grid(torch.cat([images, decoded]), 12)


def _held_out(count: int) -> Tensor:
    return next(iter(loader(SceneStream("query", 0, count, seed=1), count))).images


@torch.no_grad()
def finish(autoencoder: AutoencoderKL, count: int = 1024) -> dict[str, float]:
    """Set the latent scaling to unit standard deviation; return held-out quality."""
    autoencoder.eval()
    squared, latents = [], []
    for batch in loader(SceneStream("query", 0, count, seed=2), 64):
        mean = autoencoder.encode(batch.images).latent_dist.mode()
        decoded = autoencoder.decode(mean).sample.clamp(-1, 1)
        squared.append(((decoded - batch.images) / 2).square().mean((1, 2, 3)))
        latents.append(mean)
    deviation = torch.cat(latents).std()
    autoencoder.register_to_config(scaling_factor=round(1 / float(deviation), 4))
    psnr = -10 * torch.cat(squared).log10()
    return {"psnr": float(psnr.mean()), "latent_std": float(deviation)}
