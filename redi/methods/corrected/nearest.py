"""Kernel ridge regression on each query's nearest rows only."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

from redi.lazy import Tensor, torch
from redi.methods.corrected.groups import all_different
from redi.methods.corrected.kernel import Choice, affinity, median_distance

_CHUNK = 64  # rows whose neighbours' targets are in memory at once


@dataclass(frozen=True)
class NearestRidge:
    """`KernelRidge` with the query's `nearest` rows in the place of all: one small system each."""

    centre: Tensor  # (F,) float32, like all of them
    inputs: Tensor  # (K, F) centred
    targets: Tensor  # (K, D)
    choice: Choice
    scale: float  # median distance of the inputs
    nearest: int

    def __call__(self, features: Tensor) -> Tensor:
        """Features (B, F) to outputs (B, D), float32."""
        width = self.choice.width * self.scale
        values = affinity(features.float() - self.centre, self.inputs, self.choice.kernel, width)
        return _solve(self.gram, values, self.targets, self.choice.ridge, self.nearest)

    @cached_property
    def gram(self) -> Tensor:
        """Kernel values between the rows (K, K), float64."""
        width = self.choice.width * self.scale
        return affinity(self.inputs, self.inputs, self.choice.kernel, width)

    def lipschitz(self) -> float:
        """Infinite: where the nearest rows change, the map jumps."""
        return math.inf

    def to(self, device: torch.device) -> NearestRidge:
        """The same map on another device."""
        return replace(
            self,
            centre=self.centre.to(device),
            inputs=self.inputs.to(device),
            targets=self.targets.to(device),
        )


def fit_nearest(
    features: Tensor,
    targets: Tensor,
    choices: list[Choice],
    nearest: int,
    groups: Tensor | None = None,
) -> tuple[NearestRidge, Tensor, dict[Choice, float]]:
    """As `fit_kernel`: the regression, its left-out predictions (K, D), errors by choice.

    A row that is left out is predicted from its nearest rows of other groups (K,), so nothing is
    refitted. Rows of one group repeat one another; None: no row repeats another.
    """
    centre = features.double().mean(0)
    inputs = (features.double() - centre).float()
    outputs = targets.float()
    scale = median_distance(inputs)
    groups = all_different(len(inputs)) if groups is None else groups
    same = (groups[:, None] == groups).to(inputs.device)
    nearest = min(nearest, len(inputs) - int(same.sum(1).max()))
    errors: dict[Choice, float] = {}
    best: tuple[float, Choice, Tensor] | None = None
    for choice in choices:
        gram = affinity(inputs, inputs, choice.kernel, choice.width * scale)
        others = gram.masked_fill(same, -torch.inf)
        guess = torch.cat(
            [_solve(gram, rows, outputs, choice.ridge, nearest) for rows in others.split(_CHUNK)]
        ).double()
        errors[choice] = float((guess - targets).square().mean())
        if best is None or errors[choice] < best[0]:
            best = errors[choice], choice, guess
    if best is None:
        raise ValueError("fit_nearest needs at least one choice")
    _, choice, guess = best
    return NearestRidge(centre.float(), inputs, outputs, choice, scale, nearest), guess, errors


def _solve(gram: Tensor, values: Tensor, targets: Tensor, ridge: float, nearest: int) -> Tensor:
    """Predictions (B, D) from kernel values (B, K), largest `nearest` of each row."""
    near = values.topk(nearest, 1)  # (B, H)
    system = gram[near.indices[:, :, None], near.indices[:, None, :]]  # (B, H, H)
    system = system + ridge * torch.eye(nearest, dtype=system.dtype, device=system.device)
    weights = torch.linalg.solve(system, near.values[:, :, None])[:, :, 0].float()  # (B, H)
    return (weights[:, :, None] * targets[near.indices]).sum(1)
