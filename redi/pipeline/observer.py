"""Keeping the states of pipeline calls at the steps that a knowledge base stores."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from redi.errors import UsageError
from redi.knowledge_base import Column, step_group
from redi.methods.corrected.plan import check_calls, check_reference, coarse_steps
from redi.models.identity import Identity, schedule_identity, stored_shape
from redi.samplers import Sampler, SamplerState

#: where the calls of corrected runs lie: late levels leave less over, on the embedded model
LEVELS = "late1.6"


class Recording:
    """A plan that changes nothing and keeps the states at the stored steps.

    `check` is told the setting of each call before the network runs, and again with the shape of
    the latents; it refuses what does not belong together.
    """

    def __init__(
        self,
        key_step: int | None,
        value_steps: Sequence[int],
        budgets: Sequence[int],
        history: bool,
        check: Callable[[Identity], None],
    ) -> None:
        self.key_step, self.value_steps, self.history = key_step, tuple(value_steps), history
        self.budgets, self.steps = tuple(budgets), list[int]()
        self.kept: dict[tuple[str, str], Tensor] = {}
        self.call, self.check = Identity({}), check

    def describe(self, call: Identity) -> None:
        self.call = call

    def prepare(self, sampler: Sampler) -> None:
        last = sampler.num_steps
        key = [] if self.key_step is None else [self.key_step]
        for name, steps in (("key_step", key), ("value_steps", self.value_steps)):
            for step in steps:
                if not 1 <= step <= last:
                    raise UsageError(f"{name} has {step}: use steps from 1 to {last}")
        for calls in self.budgets:
            check_calls(last, calls, "budgets")
        rho = check_reference(sampler) if self.budgets else sampler.levels.rho
        coarse = {s for calls in self.budgets for s in coarse_steps(rho, calls, LEVELS)[1:]}
        self.steps = [*key, *sorted((set(self.value_steps) | coarse) - set(key))]
        self.sampler, self.kept = sampler, {}
        stored = {
            "key_step": self.key_step,
            "stored_steps": self.steps,
            "store_history": self.history,
        }
        self.call |= schedule_identity(sampler) | Identity(stored)
        self.check(self.call)

    def begin(self, sampler: Sampler, latents: Tensor) -> None:
        self.shape = stored_shape(latents)
        self.check(self.call | Identity({"latent_shape": list(self.shape)}))

    def count(self, samples: int) -> None:
        """Recording counts nothing."""

    def after(self, state: SamplerState, prediction: Tensor) -> SamplerState:
        group = step_group(state.step)
        if state.step in self.steps:
            self.kept[group, "latents"] = self._rows(state.latents)
            if state.step == self.key_step:
                self.kept[group, "prediction"] = self._rows(prediction)
            elif self.history and state.history and state.step < self.sampler.num_steps:
                rows = [self._rows(item) for item in state.history]
                self.kept[group, "history"] = torch.stack(rows, 1)
        return state

    def _rows(self, latents: Tensor) -> Tensor:
        return latents.float().cpu().reshape(len(latents), *self.shape)

    def columns(self) -> tuple[Column, ...]:
        """The layout that the last call's states have."""
        return tuple(Column(g, n, tuple(t.shape[1:])) for (g, n), t in self.kept.items())
