"""Pictures on their way into a metric: in one range, or as features by a published protocol.

For features, pictures are uint8 (H, W, 3), as they would be read from PNG files: generated ones are
rounded to nearest before anything sees them. An extractor maps float pictures (B, 3, h, w) to
features (B, D).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from redi.lazy import Tensor, torch

Extractor = Callable[[Tensor], Tensor]
_BATCH = 32


def clean_features(pictures: Iterable[np.ndarray], extractor: Extractor) -> np.ndarray:
    """Features (N, D) by the clean-fid protocol (Parmar et al., 2022).

    Each channel is resized to 299 x 299 as float32 by Pillow's antialiased bicubic filter, clipped
    to [0, 255] and *not* rounded; the extractor sees values from 0 to 255.
    """
    from cleanfid.resize import build_resizer

    resize = build_resizer("clean")
    return _features((torch.from_numpy(resize(p)).permute(2, 0, 1) for p in pictures), extractor)


def byte_features(pictures: Iterable[np.ndarray], extractor: Extractor) -> np.ndarray:
    """Features (N, D) as torchmetrics takes them: the extractor sees uint8 and resizes itself.

    torchmetrics' own Inception resizes bilinearly in float32, without rounding.
    """
    images = (torch.from_numpy(np.array(picture)).permute(2, 0, 1) for picture in pictures)
    return _features(images, extractor)


def _features(images: Iterable[Tensor], extractor: Extractor) -> np.ndarray:
    found, waiting = [], []
    for image in images:
        waiting.append(image)
        if len(waiting) == _BATCH:
            found.append(_call(extractor, waiting))
            waiting = []
    if waiting:
        found.append(_call(extractor, waiting))
    return np.concatenate(found)


def _call(extractor: Extractor, images: list[Tensor]) -> np.ndarray:
    with torch.no_grad():
        return extractor(torch.stack(images)).cpu().double().numpy()


def unit_range(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Two batches of pictures (B, 3, H, W) in [-1, 1] as float64 in [0, 1]."""
    same_shape("images", a, b)
    if a.ndim != 4:
        raise ValueError(f"images have shape {tuple(a.shape)}; give (B, 3, H, W)")
    for images in (a, b):
        if not images.is_floating_point():
            raise ValueError(f"images have dtype {images.dtype}; give floats in [-1, 1]")
        if images.numel() and float(images.abs().max()) > 1.01:
            peak = float(images.abs().max())
            raise ValueError(f"images reach {peak:.3g} in absolute value; scale them to [-1, 1]")
    return (a.double().clamp(-1, 1) + 1) / 2, (b.double().clamp(-1, 1) + 1) / 2


def same_shape(name: str, a: Tensor, b: Tensor) -> None:
    """Refuse tensors of two shapes."""
    if a.shape != b.shape:
        raise ValueError(
            f"{name} have shapes {tuple(a.shape)} and {tuple(b.shape)}; give two of one shape"
        )
