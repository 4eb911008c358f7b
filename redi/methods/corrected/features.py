"""What a correction is predicted from: known before the step, at no call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from redi.errors import UsageError
from redi.lazy import Tensor, torch
from redi.methods.few.bases import Visit


def _previous(back: int) -> Callable[[Sequence[Visit]], Tensor | None]:
    return lambda visits: visits[-1 - back].noise if len(visits) > back else None


#: Feature blocks (B, C, H, W) by name; None where a run is too young to have one.
BLOCKS: dict[str, Callable[[Sequence[Visit]], Tensor | None]] = {
    "prediction": lambda visits: visits[-1].noise,
    "clean": lambda visits: visits[-1].clean,
    "state": lambda visits: visits[-1].y,
    "previous": _previous(1),
    "earlier": _previous(2),
    "guidance": lambda visits: visits[-1].guidance,
    "previous_guidance": lambda visits: visits[-2].guidance if len(visits) > 1 else None,
}

#: what helps, in this order, on the embedded model
FEATURES = ("prediction", "clean", "previous", "earlier", "guidance", "previous_guidance")


@dataclass(frozen=True)
class Features:
    """Named blocks at one level, each scaled to unit spread over the knowledge base."""

    names: tuple[str, ...]
    scales: tuple[float, ...]

    def __call__(self, visits: Sequence[Visit]) -> Tensor:
        """Planes (B, F, H, W) float32, F = channels x blocks."""
        blocks = [_block(name, visits) for name in self.names]
        return torch.cat(
            [block * scale for block, scale in zip(blocks, self.scales, strict=True)], 1
        ).float()


def fit_features(names: Sequence[str], visits: Sequence[Visit], partitions: Tensor) -> Features:
    """The blocks that exist at this level, scaled by their spread over trajectories of one noise.

    `partitions` (K,) tells which trajectories share a noise.
    """
    for name in names:
        if name not in BLOCKS:
            known = ", ".join(BLOCKS)
            raise UsageError(f"correction.features has {name!r}; use any of {known}")
    present, scales = [], []
    for name in names:
        block = BLOCKS[name](visits)
        spread = 0.0 if block is None else _spread(block, partitions)
        if spread > 0:  # a shared start, for example, tells the trajectories apart by nothing
            present.append(name)
            scales.append(1 / spread)
    if not present:
        raise UsageError(
            f"correction.features={list(names)} are equal in all trajectories at the first level: "
            "add 'prediction'"
        )
    return Features(tuple(present), tuple(scales))


def _spread(block: Tensor, partitions: Tensor) -> float:
    squares = 0.0
    for partition in partitions.unique():
        mine = block[(partitions == partition).to(block.device)].double()
        squares += float((mine - mine.mean(0)).square().sum())
    return (squares / block.numel()) ** 0.5


def _block(name: str, visits: Sequence[Visit]) -> Tensor:
    block = BLOCKS[name](visits)
    if block is None:
        raise ValueError(f"feature {name!r} needs more levels than the run has visited")
    return block
