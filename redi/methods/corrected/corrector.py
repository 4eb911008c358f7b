"""The fitted correction of every step of one plan."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace

from redi.errors import UsageError
from redi.lazy import Tensor, torch
from redi.methods.corrected.features import Features
from redi.methods.corrected.kernel import KernelRidge
from redi.methods.corrected.local import PatchRidge
from redi.methods.corrected.nearest import NearestRidge
from redi.methods.few.bases import Visit, base_step
from redi.methods.few.plan import Plan
from redi.methods.few.store import Cost

_ROWS = 16  # queries that a correction is computed for at a time
#: what may correct a step: nothing, the patch map, the kernel regression, or one on the other
PARTS = ("none", "local", "kernel", "both")

Kernels = dict[int, KernelRidge | NearestRidge]


@dataclass(frozen=True)
class StepCorrection:
    """What is added after one base step."""

    features: Features
    local: PatchRidge | None
    kernels: Kernels  # by noise partition; empty: none
    #: mean squared error of the step on left-out trajectories, by part
    errors: dict[str, float]

    @property
    def numbers(self) -> int:
        """Stored scalars."""
        local = [] if self.local is None else [self.local.weight, self.local.bias]
        kept = [getattr(k, one.name) for k in self.kernels.values() for one in fields(k)]
        return sum(item.numel() for item in (*local, *kept) if isinstance(item, torch.Tensor))

    @property
    def part(self) -> str:
        if self.local is None:
            return "kernel" if self.kernels else "none"
        return "both" if self.kernels else "local"

    def __call__(self, visits: Sequence[Visit], partitions: Sequence[int]) -> Tensor:
        """The correction (B, C, H, W) of the step that leaves the last visit, float64."""
        total = torch.zeros_like(visits[-1].y)
        if self.part == "none":
            return total
        planes = self.features(visits)
        if self.local is not None:
            total += _in_batches(self.local, planes)
        for partition in sorted(set(partitions)) if self.kernels else ():
            if partition not in self.kernels:
                raise UsageError(
                    f"the KB has no trajectory with noise {partition}: use a larger kb.size"
                )
            rows = torch.tensor(
                [i for i, p in enumerate(partitions) if p == partition], device=total.device
            )
            predicted = _in_batches(self.kernels[partition], planes[rows].flatten(1))
            total[rows] += predicted.reshape(total[rows].shape)
        return total

    def to(self, device: torch.device) -> StepCorrection:
        """The same correction on another device."""
        local = None if self.local is None else self.local.to(device)
        kernels: Kernels = {
            partition: kernel.to(device) for partition, kernel in self.kernels.items()
        }
        return replace(self, local=local, kernels=kernels)


@dataclass(frozen=True)
class Correction:
    """A plan, its base sampler, and one correction per step.

    `predicted_error` is the relative error (K,) of the final latents of every trajectory of the
    knowledge base under corrections that never saw it: the method's error, known before any query.
    Only a fit on visited states has it.
    """

    plan: Plan
    base: str
    steps: tuple[StepCorrection, ...]
    predicted_error: Tensor | None
    cost: Cost = field(default_factory=Cost)

    @property
    def numbers(self) -> int:
        """Stored scalars."""
        return sum(step.numbers for step in self.steps)

    def step(self, level: int, visits: Sequence[Visit], partitions: Sequence[int]) -> Tensor:
        """`y` at level + 1: the base sampler's step plus its correction."""
        correction = self.steps[level - self.plan.asked.start]
        return base_step(self.plan, self.base, level, visits) + correction(visits, partitions)

    def to(self, device: torch.device) -> Correction:
        """The same corrections on another device, where the steps are then computed."""
        return replace(self, steps=tuple(step.to(device) for step in self.steps))


def _in_batches(function: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
    """Apply a map to fixed numbers of rows, the last padded: rounding may depend on the shape."""
    parts = []
    for chunk in rows.split(_ROWS):
        missing = _ROWS - len(chunk)
        padded = torch.cat([chunk, chunk[-1:].expand(missing, *chunk.shape[1:])])
        parts.append(function(padded)[: len(chunk)])
    return torch.cat(parts)
