"""Keeping the states of pipeline calls at the steps that a knowledge base stores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from redi.errors import UsageError
from redi.knowledge_base import Column, step_group
from redi.methods import Fitted, Method, Query, Setup
from redi.methods.corrected import Corrected
from redi.methods.few.plan import check_calls
from redi.methods.plain import Full
from redi.models.identity import Identity, schedule_identity, stored_shape
from redi.pipeline.networks import Networks
from redi.pipeline.plans import start_of
from redi.pipeline.stand_in import StandIn
from redi.samplers import Sampler, StepRecord


class Recording:
    """Full sampling that keeps the states at the stored steps.

    `check` is told the setting of each call before the network runs, and again with the shape of
    the latents; it refuses what does not belong together.
    """

    reference_steps: int | None = None

    def __init__(
        self,
        key_steps: Sequence[int],
        value_steps: Sequence[int],
        fitted: Sequence[Fitted],
        history: bool,
        check: Callable[[Identity], None],
    ) -> None:
        self.key_steps, self.value_steps = sorted(set(key_steps)), tuple(value_steps)
        self.history = history
        self.fitted, self.steps = tuple(fitted), list[int]()
        self.kept: dict[tuple[str, str], Tensor] = {}
        self.call, self.check = Identity({}), check

    def describe(self, call: Identity, generator: Any) -> None:
        self.call = call

    def prepare(self, sampler: Sampler) -> Method:
        last, setup = sampler.num_steps, Setup(sampler)
        keys = self.key_steps
        for name, steps in (("key_step", keys), ("value_steps", self.value_steps)):
            for step in steps:
                if not 1 <= step <= last:
                    raise UsageError(f"{name} has {step}: use steps from 1 to {last}")
        for method in self.fitted:
            if isinstance(method, Corrected):
                check_calls(last, method.calls, "budgets")
        coarse = {step for method in self.fitted for step in method.needed_steps(setup)}
        self.steps = [*keys[:1], *sorted({*keys[1:], *self.value_steps, *coarse} - {*keys[:1]})]
        self.last, self.kept = last, {}
        stored = {
            "key_step": keys[0] if keys else None,
            "stored_steps": self.steps,
            "store_history": self.history,
        }
        usual = {}
        if len(keys) > 1:
            stored["key_steps"], usual["key_steps"] = keys, keys[:1]
        self.call |= schedule_identity(sampler) | Identity(stored, usual)
        self.check(self.call)
        return Full().bind(setup)

    def begin(self, sampler: Sampler, latents: Tensor) -> Query:
        self.shape = stored_shape(latents)
        self.check(self.call | Identity({"latent_shape": list(self.shape)}))
        query = start_of(sampler.noise_scale, latents, [0] * len(latents))
        query.observe = self.observe
        return query

    def observe(self, record: StepRecord) -> None:
        """Keep the state of a completed update, where the KB stores it."""
        state = record.state
        group = step_group(state.step)
        if state.step in self.steps:
            self.kept[group, "latents"] = self._rows(state.latents)
            if state.step in self.key_steps:
                self.kept[group, "prediction"] = self._rows(record.predictions[-1])
            carried = self.history and state.history and state.step < self.last
            if carried and state.step not in self.key_steps[:1]:
                rows = [self._rows(item) for item in state.history]
                self.kept[group, "history"] = torch.stack(rows, 1)

    def finish(self, stand_in: StandIn, networks: Networks) -> None:
        """Keep what the networks were told of each prompt, where it could be seen."""
        if networks.embedding is not None and stand_in.query is not None:
            told = networks.embedding[-len(stand_in.query) :]
            self.kept["prompt", "embedding"] = told.float().cpu()

    def _rows(self, latents: Tensor) -> Tensor:
        return latents.float().cpu().reshape(len(latents), *self.shape)

    def columns(self) -> tuple[Column, ...]:
        """The layout that the last call's states have."""
        return tuple(Column(g, n, tuple(t.shape[1:])) for (g, n), t in self.kept.items())
