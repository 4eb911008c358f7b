"""PNDM: Adams-Bashforth of rising order up to four, after one of two kinds of warm-up."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from functools import cached_property
from typing import Any

from redi.lazy import Tensor, torch
from redi.samplers.base import Sampler, alpha_levels
from redi.samplers.state import Levels, SamplerState

_RUNGE_KUTTA = 3  # updates of the Runge-Kutta warm-up, four calls each
_LEFT_WARM_UP = 2  # a call counter that is past the trapezoid's


class PNDM(Sampler):
    """PNDM without Runge-Kutta warm-up (PLMS), as Stable Diffusion uses it.

    The first update is a trapezoid of two network calls that keeps only its first prediction, so N
    updates cost N + 1 calls. The scheduler's call counter decides between the two halves.
    """

    name = "pndm"
    min_steps = 2

    @property
    def history_size(self) -> int:
        return 3

    @cached_property
    def levels(self) -> Levels:
        starts = [int(calls[0]) for calls in self.call_timesteps]
        return alpha_levels(self.scheduler, [*starts, self._reached[-1]])

    @cached_property
    def written(self) -> Levels:
        return alpha_levels(self.scheduler, [int(self.call_timesteps[0][0]), *self._reached])

    @property
    def _reached(self) -> list[int]:
        """Timestep that each update goes down to; a warm-up ends where its last call is made."""
        return [
            int(calls[-1]) if len(calls) > 1 else int(calls[0]) - self._stride
            for calls in self.call_timesteps
        ]

    @property
    def _stride(self) -> int:
        return self.scheduler.config.num_train_timesteps // self.num_steps

    @cached_property
    def call_timesteps(self) -> list[tuple[Tensor, ...]]:
        first, second, _, *rest = self.scheduler.timesteps
        return [(first, second), (second,), *((t,) for t in rest)]

    def resume(
        self, step: int, latents: Tensor, policy: str, history: tuple[Tensor, ...] = ()
    ) -> SamplerState:
        """A legacy resume is a fresh scheduler: it takes its second call for the second half of a
        warm-up trapezoid. That call makes no progress, and every later one evaluates a state that
        lags one update behind its timestep (the published code)."""
        state = super().resume(step, latents, policy, history)
        return replace(state, legacy_counter=0) if policy == "legacy" and step > 0 else state

    def restore(self, state: SamplerState) -> None:
        scheduler = self.scheduler
        if state.legacy_counter is not None:
            counter = min(state.legacy_counter, _LEFT_WARM_UP)
        else:
            counter = _LEFT_WARM_UP if state.history else 0  # no history: one Euler call
        scheduler.ets, scheduler.counter = list(state.history), counter
        scheduler.cur_sample = state.legacy_held[0] if state.legacy_held else None

    def capture(self, before: SamplerState, latents: Tensor) -> SamplerState:
        history = tuple(self.scheduler.ets[-self.history_size :])
        state = SamplerState(before.step + 1, latents, history)
        if before.legacy_counter is None:
            return state
        held = self.scheduler.cur_sample
        return replace(
            state,
            legacy_counter=before.legacy_counter + 1,
            legacy_held=() if held is None else (held,),
        )


class PNDMRungeKutta(PNDM):
    """PNDM with its Runge-Kutta warm-up: three updates of four calls, so N + 9 calls in all.

    The scheduler refuses the multistep phase with fewer than three predictions, which is what a
    resume without history has; those calls are made by a copy that skips the warm-up.
    """

    name = "pndm_prk"
    min_steps = 4

    def __init__(self, scheduler: Any) -> None:
        super().__init__(scheduler)
        self._without_warm_up = deepcopy(scheduler)
        self._without_warm_up.register_to_config(skip_prk_steps=True)

    @cached_property
    def call_timesteps(self) -> list[tuple[Tensor, ...]]:
        calls = list(self.scheduler.timesteps)
        warm = [tuple(calls[4 * i : 4 * i + 4]) for i in range(_RUNGE_KUTTA)]
        return [*warm, *((t,) for t in calls[4 * _RUNGE_KUTTA :])]

    def restore(self, state: SamplerState) -> None:
        legacy = state.legacy_counter is not None
        multistep = state.step >= _RUNGE_KUTTA and not legacy
        alone = multistep and len(state.history) < self.history_size
        self.active = self._without_warm_up if alone else self.scheduler
        counter = 4 * min(state.step, _RUNGE_KUTTA)
        if alone:
            counter = _LEFT_WARM_UP if state.history else 0
        elif state.legacy_counter is not None:
            counter = state.legacy_counter
        held, summed = state.legacy_held or (None, 0)
        self.active.ets, self.active.counter = list(state.history), counter
        self.active.cur_sample, self.active.cur_model_output = held, _owned(summed)

    def capture(self, before: SamplerState, latents: Tensor) -> SamplerState:
        scheduler = self.active
        state = SamplerState(before.step + 1, latents, tuple(scheduler.ets[-self.history_size :]))
        if before.legacy_counter is None:
            return state
        summed = scheduler.cur_model_output
        held = (scheduler.cur_sample, summed + torch.zeros_like(latents))
        return replace(state, legacy_counter=scheduler.counter, legacy_held=held)

    def _call_level(self, step: int, number: int) -> tuple[float, float]:
        if number == 0:
            return super()._call_level(step, 0)
        squared = float(self.scheduler.alphas_cumprod[int(self.call_timesteps[step][number])])
        return squared**0.5, (1 - squared) ** 0.5


def _owned(value: Tensor | int) -> Tensor | int:
    """The scheduler adds to its sum in place, and a state must not change."""
    return value.clone() if isinstance(value, torch.Tensor) else value
