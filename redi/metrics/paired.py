"""How close two runs of the same prompts and noises come, picture by picture.

Pictures are float (B, 3, H, W) in [-1, 1] and are compared in [0, 1], so the data range is 1.
"""

from __future__ import annotations

from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

_SSIM_WINDOW = 11


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB, float64 (B,); infinite where two pictures are equal."""
    a, b = _unit_range(a, b)
    return -10 * (a - b).square().mean((1, 2, 3)).log10()


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Structural similarity, float64 (B,), 1 for equal pictures.

    Gaussian window of 11 pixels and deviation 1.5, k1 = 0.01, k2 = 0.03 (Wang et al., 2004), by
    torchmetrics.
    """
    a, b = _unit_range(a, b)
    if min(a.shape[2:]) < _SSIM_WINDOW:
        raise ValueError(
            f"images are {a.shape[2]}x{a.shape[3]}; SSIM needs {_SSIM_WINDOW} pixels a side"
        )
    if not len(a):
        return a.new_empty(0)
    value = structural_similarity_index_measure(
        a, b, kernel_size=_SSIM_WINDOW, sigma=1.5, reduction="none", data_range=1.0
    )
    assert isinstance(value, Tensor)
    return value.reshape(-1)


def latent_error(a: Tensor, reference: Tensor) -> Tensor:
    """Relative error |a - reference| / |reference| of each sample, Euclidean, float64 (B,).

    Takes any shape (B, ...). Raises ValueError where a reference sample is zero.
    """
    _same_shape("latents", a, reference)
    a, reference = a.double().flatten(1), reference.double().flatten(1)
    norm = reference.norm(dim=1)
    if (norm == 0).any():
        zero = int((norm == 0).nonzero()[0])
        raise ValueError(f"reference[{zero}] is all zeros; a relative error needs a non-zero one")
    return (a - reference).norm(dim=1) / norm


def _unit_range(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    _same_shape("images", a, b)
    if a.ndim != 4:
        raise ValueError(f"images have shape {tuple(a.shape)}; give (B, 3, H, W)")
    for images in (a, b):
        if not images.is_floating_point():
            raise ValueError(f"images have dtype {images.dtype}; give floats in [-1, 1]")
        if images.numel() and float(images.abs().max()) > 1.01:
            peak = float(images.abs().max())
            raise ValueError(f"images reach {peak:.3g} in absolute value; scale them to [-1, 1]")
    return (a.double().clamp(-1, 1) + 1) / 2, (b.double().clamp(-1, 1) + 1) / 2


def _same_shape(name: str, a: Tensor, b: Tensor) -> None:
    if a.shape != b.shape:
        raise ValueError(
            f"{name} have shapes {tuple(a.shape)} and {tuple(b.shape)}; give two of one shape"
        )
