"""What a sampler carries from one update to the next, and the noise levels it visits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

#: Guided network output for latents (B, C, H, W) at one timestep: same shape as the latents.
Predict = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Levels:
    """Noise levels of the states after 0 .. N updates, float64 (N + 1,).

    `x = alpha * x0 + sigma * noise`; in the normalised variables of the theory `y = x / alpha` and
    `rho = sigma / alpha`.
    """

    alpha: Tensor
    sigma: Tensor

    @property
    def rho(self) -> Tensor:
        return self.sigma / self.alpha


@dataclass(frozen=True)
class SamplerState:
    """A sampler after `step` completed updates. "After i steps" always means this index.

    The state is complete: `Sampler.advance` sets every mutable field of the scheduler from it, so
    states of different batches and steps can be advanced in any order.
    """

    step: int
    latents: Tensor  # (B, C, H, W)
    #: predictions that a multistep method carries, oldest first, each (B, C, H, W)
    history: tuple[Tensor, ...] = ()
    #: PNDM resumed in the published way only: updates since the resume, and the sample it holds
    legacy_counter: int | None = None
    legacy_sample: Tensor | None = None

    def __len__(self) -> int:
        return self.latents.shape[0]

    def take(self, rows: Tensor | slice) -> SamplerState:
        """The state of some samples of the batch."""
        held = None if self.legacy_sample is None else self.legacy_sample[rows]
        history = tuple(item[rows] for item in self.history)
        return replace(self, latents=self.latents[rows], history=history, legacy_sample=held)

    @staticmethod
    def join(states: list[SamplerState]) -> SamplerState:
        """One batch from states at the same step with equally long histories."""
        first = states[0]
        shapes = {(state.step, len(state.history), state.legacy_counter) for state in states}
        if len(shapes) > 1:
            found = sorted(map(str, shapes))
            raise ValueError(f"only states at one step can be joined, got {found}")
        held = [s.legacy_sample for s in states if s.legacy_sample is not None]
        return replace(
            first,
            latents=torch.cat([state.latents for state in states]),
            history=tuple(
                torch.cat(items) for items in zip(*(s.history for s in states), strict=True)
            ),
            legacy_sample=torch.cat(held) if held else None,
        )


@dataclass(frozen=True)
class StepRecord:
    """One completed update: the new state and what was paid for it."""

    state: SamplerState
    #: noise predictions of this update's network calls, in call order, each (B, C, H, W)
    predictions: tuple[Tensor, ...] = field(repr=False)
