"""What a sampler carries from one update to the next, and the noise levels it visits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from redi.lazy import Tensor, torch

#: Guided network output for latents (B, C, H, W) at one timestep: same shape as the latents.
Predict = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Levels:
    """Noise levels of the states after 0 .. N updates, float64 (N + 1,).

    `x = alpha * x0 + sigma * noise`; in the normalised variables of the theory `y = x / alpha` and
    `rho = sigma / alpha`, which is infinite where a rectified flow starts (`alpha = 0`).
    """

    alpha: Tensor
    sigma: Tensor

    @property
    def rho(self) -> Tensor:
        return self.sigma / self.alpha


@dataclass(frozen=True)
class SamplerState:
    """A sampler after `step` completed updates. "After i steps" always means this index.

    The state is complete: `Sampler.restore` sets every mutable field of the scheduler from it, so
    states of different batches and steps can be advanced in any order.
    """

    step: int
    latents: Tensor  # (B, C, H, W)
    #: what the sampler carries, each (B, C, H, W): predictions, oldest first; UniPC and single-step
    #: DPM-Solver add the latents that their next update starts from
    history: tuple[Tensor, ...] = ()
    #: PNDM resumed in the published way only: calls since the resume, and the tensors it holds
    legacy_counter: int | None = None
    legacy_held: tuple[Tensor, ...] = ()
    #: the last noise prediction (B, C, H, W); the sampler does not need it, a jump may
    prediction: Tensor | None = None

    def __len__(self) -> int:
        return self.latents.shape[0]

    def take(self, rows: Tensor | slice) -> SamplerState:
        """The state of some samples of the batch."""
        history = tuple(item[rows] for item in self.history)
        held = tuple(item[rows] for item in self.legacy_held)
        prediction = None if self.prediction is None else self.prediction[rows]
        return replace(
            self,
            latents=self.latents[rows],
            history=history,
            legacy_held=held,
            prediction=prediction,
        )

    @staticmethod
    def join(states: list[SamplerState]) -> SamplerState:
        """One batch from states at the same step with equally long histories."""
        shapes = {(s.step, len(s.history), s.legacy_counter, len(s.legacy_held)) for s in states}
        if len(shapes) > 1:
            found = sorted(map(str, shapes))
            raise ValueError(f"only states at one step can be joined, got {found}")
        known = [state.prediction for state in states if state.prediction is not None]
        return replace(
            states[0],
            prediction=torch.cat(known) if len(known) == len(states) else None,
            latents=torch.cat([state.latents for state in states]),
            history=_joined([state.history for state in states]),
            legacy_held=_joined([state.legacy_held for state in states]),
        )


def _joined(rows: list[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    return tuple(torch.cat(items) for items in zip(*rows, strict=True))


@dataclass(frozen=True)
class StepRecord:
    """One completed update: the new state and what was paid for it."""

    state: SamplerState
    #: noise predictions of this update's network calls, in call order, each (B, C, H, W)
    predictions: tuple[Tensor, ...] = field(repr=False)
