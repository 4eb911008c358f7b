"""Stage 1: the autoencoder, 64x64 pictures to 4x16x16 latents."""

from __future__ import annotations

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor
from torch.nn import functional as F

from redi.data.pixels import as_images
from redi.embedded.stage_config import StageConfig
from redi.embedded.stream import scene_batch, scene_batches
from redi.embedded.training import TrainingStage, grid

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


class TrainAutoencoder(TrainingStage[Tensor]):
    """Absolute plus squared error, with a faint pull of the posterior towards a normal."""

    def __init__(self, config: StageConfig, seed: int) -> None:
        super().__init__(config, seed)
        self.autoencoder = new_autoencoder()
        self.autoencoder.to(memory_format=torch.channels_last)  # type: ignore[call-arg]

    def start_with(self, autoencoder: AutoencoderKL) -> None:
        """Take over trained weights."""
        self.autoencoder.load_state_dict(autoencoder.state_dict())

    def prepare(self, number: int) -> Tensor:
        parts = [batch.pixels for batch in self.painters.batches(self.span(number))]
        return torch.from_numpy(np.concatenate(parts)).to(self.device)

    def loss(self, pool: Tensor, rows: Tensor, seed: int) -> Tensor:
        images = as_images(pool[rows])
        posterior = self.autoencoder.encode(images).latent_dist
        generator = torch.Generator(images.device).manual_seed(seed)
        noise = torch.randn(posterior.mean.shape, generator=generator, device=images.device)
        decoded = self.autoencoder.decode(posterior.mean + posterior.std * noise).sample.float()
        kl = posterior.kl().mean()
        return F.l1_loss(decoded, images) + F.mse_loss(decoded, images) + KL_WEIGHT * kl

    @torch.no_grad()
    def sheet(self) -> np.ndarray:
        images = scene_batch("query", 0, 12, seed=1).images.to(self.device)
        decoded = self.autoencoder.decode(self.autoencoder.encode(images).latent_dist.mode()).sample
        return grid(torch.cat([images, decoded.float()]), 12)


@torch.no_grad()
def finish(autoencoder: AutoencoderKL, count: int = 1024) -> dict[str, float]:
    """Set the latent scaling to unit standard deviation; return held-out quality."""
    autoencoder.eval()
    squared, latents = [], []
    for batch in scene_batches("query", count, seed=2):
        mean = autoencoder.encode(batch.images).latent_dist.mode()
        decoded = autoencoder.decode(mean).sample.clamp(-1, 1)
        squared.append(((decoded - batch.images) / 2).square().mean((1, 2, 3)))
        latents.append(mean)
    deviation = torch.cat(latents).std()
    autoencoder.register_to_config(scaling_factor=round(1 / float(deviation), 4))
    psnr = -10 * torch.cat(squared).log10()
    return {"psnr": float(psnr.mean()), "latent_std": float(deviation)}
