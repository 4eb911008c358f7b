"""Pictures as pixels and as tensors."""

from __future__ import annotations

import numpy as np

from redi.lazy import Tensor, torch


def to_tensor(images: np.ndarray) -> Tensor:
    """uint8 (B, H, W, 3) to float32 (B, 3, H, W) in [-1, 1]."""
    return as_images(torch.from_numpy(images))


def as_images(pixels: Tensor) -> Tensor:
    """uint8 (B, H, W, 3) to float32 (B, 3, H, W) in [-1, 1], channels last in memory."""
    return pixels.permute(0, 3, 1, 2).float() / 127.5 - 1


def to_pixels(image: Tensor) -> np.ndarray:
    """float (..., 3, H, W) in [-1, 1] to uint8 (..., H, W, 3), rounded to nearest."""
    levels = ((image.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return levels.movedim(-3, -1).numpy()
