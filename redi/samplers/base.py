"""A diffusers scheduler with exact step indexing and explicit state."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from redi.errors import UsageError
from redi.samplers.state import Levels, Predict, SamplerState, StepRecord

RESUME_POLICIES = ("rewarm", "retrieved", "legacy")


class Sampler(ABC):
    """N updates of one deterministic sampler; `state.step` counts the completed ones.

    Subclasses adapt one scheduler family. The arithmetic is the scheduler's own, so a plain run is
    bit for bit what the unmodified diffusers pipeline computes.
    """

    #: config name
    name: str
    #: how many predictions an uninterrupted run carries at most
    history_size: int = 0

    def __init__(self, scheduler: Any, num_steps: int) -> None:
        if num_steps < 1:
            raise UsageError(f"sampling.steps={num_steps} is too small: use at least 1")
        self.scheduler, self.num_steps = scheduler, num_steps
        scheduler.set_timesteps(num_steps)

    @property
    @abstractmethod
    def levels(self) -> Levels:
        """Levels of the states after 0 .. N updates."""

    @property
    @abstractmethod
    def call_timesteps(self) -> list[tuple[Tensor, ...]]:
        """Per update, the timesteps of its network calls."""

    @abstractmethod
    def advance(self, state: SamplerState, predict: Predict) -> StepRecord:
        """One update. `predict` is called once per entry of `call_timesteps[state.step]`."""

    def initial(self, noise: Tensor) -> SamplerState:
        """The state before the first update from unit normal noise (B, C, H, W)."""
        return SamplerState(0, noise * self.scheduler.init_noise_sigma)

    def calls(self, start: int, stop: int) -> int:
        """Network calls that the updates `start` .. `stop - 1` are expected to make."""
        return sum(len(timesteps) for timesteps in self.call_timesteps[start:stop])

    def history_after(self, step: int) -> int:
        """How many predictions an uninterrupted run carries after `step` updates."""
        return min(step, self.history_size)

    def resume(
        self, step: int, latents: Tensor, policy: str, history: tuple[Tensor, ...] = ()
    ) -> SamplerState:
        """A state at `step` made from latents that this sampler did not compute.

        `rewarm` drops the history and starts the multistep method again at first order;
        `retrieved` continues with the given history (the true one makes the resume exact);
        `legacy` does what a fresh scheduler does, as in the published code.
        """
        if policy not in RESUME_POLICIES:
            known = ", ".join(RESUME_POLICIES)
            raise UsageError(f"retrieval.resume={policy!r} is unknown; use one of {known}")
        if policy != "retrieved":
            return SamplerState(step, latents)
        wanted = self.history_after(step)
        if len(history) != wanted:
            raise UsageError(
                f"{self.name} carries {wanted} predictions after step {step}, got {len(history)}: "
                "build the KB with kb.store_history=true or use retrieval.resume=rewarm"
            )
        return SamplerState(step, latents, tuple(history))

    def run(
        self, state: SamplerState, predict: Predict, stop: int | None = None
    ) -> Iterator[StepRecord]:
        """Advance to `stop` (the end by default), one record per completed update."""
        for _ in range(state.step, self.num_steps if stop is None else stop):
            record = self.advance(state, predict)
            state = record.state
            yield record

    def finish(
        self, state: SamplerState, predict: Predict, stop: int | None = None
    ) -> SamplerState:
        """The state after `stop` updates (the end by default)."""
        for record in self.run(state, predict, stop):
            state = record.state
        return state

    def noise_prediction(self, output: Tensor, latents: Tensor, step: int) -> Tensor:
        """The network output at `latents` of `step` as a noise prediction."""
        kind = self.scheduler.config.prediction_type
        alpha, sigma = (float(level[step]) for level in (self.levels.alpha, self.levels.sigma))
        if kind == "epsilon":
            return output
        if kind == "v_prediction":
            return alpha * output + sigma * latents
        if kind == "sample":
            return (latents - alpha * output) / sigma
        raise UsageError(f"the model's prediction_type {kind!r} is not supported")

    def _model_input(self, latents: Tensor, timestep: Tensor) -> Tensor:
        return self.scheduler.scale_model_input(latents, timestep)


def alpha_levels(scheduler: Any, timesteps: list[int]) -> Levels:
    """Levels of a scheduler that keeps `alphas_cumprod`; a negative timestep means the end."""
    table = scheduler.alphas_cumprod.double()
    final = torch.as_tensor(scheduler.final_alpha_cumprod, dtype=torch.float64)
    squared = torch.stack([table[t] if t >= 0 else final for t in timesteps])
    return Levels(squared.sqrt(), (1 - squared).sqrt())
