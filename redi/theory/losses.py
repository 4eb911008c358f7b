"""What the picture of a jump loses against the full run's, by the metrics of runs.

A loss maps the full run's pictures (B, 3, H, W) in [-1, 1], those of the jump and the prompts to
float64 (B,); more is worse.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from redi.metrics.evaluator import Evaluator
from redi.metrics.psnr import psnr
from redi.metrics.ssim import WINDOW, ssim

Loss = Callable[[Tensor, Tensor, Sequence[str]], Tensor]
LOSS_TITLES = {"psnr": "PSNR", "ssim": "SSIM", "clip_score": "CLIP score"}
NO_LOSSES: Mapping[str, Loss] = {}


def picture_losses(side: int, judge: Evaluator | None = None) -> dict[str, Loss]:
    """Losses by the name of their metric that pictures of `side` pixels can have.

    SSIM needs its window; the CLIP score a judge of the domain that reads pictures of this size.
    """
    found: dict[str, Loss] = {"psnr": lambda full, jumped, _: -psnr(full, jumped)}
    if side >= WINDOW:
        found["ssim"] = lambda full, jumped, _: 1 - ssim(full, jumped)
    if judge is not None and side == judge.side:

        def clip_score(full: Tensor, jumped: Tensor, prompts: Sequence[str]) -> Tensor:
            wanted, got = (judge.score(judge.image_features(p), prompts) for p in (full, jumped))
            return (wanted - got).double()

        found["clip_score"] = clip_score
    return found
