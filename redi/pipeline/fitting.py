"""Fitting a method to a KB on a user's own pipeline, whose calls answer those of the fit."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from redi.errors import UsageError
from redi.knowledge_base import KnowledgeBase
from redi.methods import Fitted, Method, Query, Setup
from redi.methods.memo import REMEMBERED, Kept, Memo
from redi.models.identity import Identity, model_identity, require_same, schedule_identity
from redi.pipeline.networks import Networks
from redi.pipeline.noise import noise_policy
from redi.pipeline.plans import Look, start_of
from redi.pipeline.recording import query
from redi.pipeline.session import attach, detach
from redi.pipeline.stand_in import StandIn
from redi.samplers import Answer, Ask, Sampler, adapt
from redi.samplers.build import kind_of, set_as_told, shifted
from redi.samplers.flow import FlowEuler


@dataclass(frozen=True)
class Fitting:
    """A pipeline that answers the calls of fits to one KB."""

    pipe: Any
    kb: KnowledgeBase
    batch_size: int
    progress: bool
    call: dict[str, Any]

    def fit(self, method: Fitted) -> Path:
        """Fit, unless that was done, and show what came of it."""
        setup = reference_setup(self.pipe, self.kb)
        check_stored(method, setup)
        if method.is_fitted(setup):
            return method.path(setup)
        call = {name: value for name, value in self.call.items() if name != "output_type"}
        looks = _Looks(self.pipe, self.kb, self.batch_size, call)
        attach(self.pipe, looks, model_identity(self.pipe))  # nobody else has the pipeline now
        try:
            with Progress(disable=not self.progress) as bar:
                looks.bar = bar
                looks.task = bar.add_task("fitting", total=None)
                _answer(method, setup, looks)
        finally:
            detach(self.pipe)
        shown = method.report(setup) if self.progress else None
        if shown is not None:
            Console().print(shown)
        return method.path(setup)


def reference_setup(pipe: Any, kb: KnowledgeBase) -> Setup:
    """What a fitted method is bound to; refuses a KB that was made otherwise.

    Pipelines of flow models tell their schedulers different things. The KB has the levels that came
    of it, and what leads to the same ones is what its pipeline told.
    """
    made = (_reference(pipe, kb, mu, even) for mu, even in _told(pipe, kb))
    first = next(made)
    fitting = (
        sampler
        for sampler in chain([first], made)
        if not schedule_identity(sampler).differences(kb.manifest.identity)
    )
    sampler = next(fitting, first)
    require_same(kb, model_identity(pipe) | schedule_identity(sampler))
    return Setup(sampler, dict(sampler.scheduler.config), kb)


def _reference(pipe: Any, kb: KnowledgeBase, mu: float | None, even: bool) -> Sampler:
    """The sampler of a KB's trajectories, from the pipeline's own scheduler."""
    scheduler = deepcopy(pipe.scheduler)
    try:
        set_as_told(scheduler, int(kb.manifest.identity["steps"]), mu, even)
    except ValueError as error:
        raise UsageError(
            f"{type(scheduler).__name__} needs more than a number of steps ({error}): fitted "
            "methods do not work with it"
        ) from None
    return adapt(scheduler)


def _told(pipe: Any, kb: KnowledgeBase) -> list[tuple[float | None, bool]]:
    """What a pipeline may tell its scheduler: a shift of its levels, and whether it names them.

    The shift for a number of tokens is the pipeline's own rule.
    """
    own = getattr(type(pipe), "_redi_original", type(pipe))
    rule = getattr(sys.modules[own.__module__], "calculate_shift", None)
    config = pipe.scheduler.config
    if rule is not None and config.get("use_dynamic_shifting"):
        lengths = dict.fromkeys(_lengths(pipe, kb.latent_shape))
        return [(shifted(config, n, rule)["mu"], even) for n in lengths for even in (True, False)]
    flow = kind_of(pipe.scheduler)[1].adapter is FlowEuler
    return [(None, False), (None, True)] if flow else [(None, False)]


def _lengths(pipe: Any, shape: Sequence[int]) -> list[int]:
    """Numbers of tokens that a pipeline may count in latents (1, S, C) or pictures (C, H, W)."""
    if shape[0] == 1:
        return [shape[-2]]
    patch = pipe.transformer.config.get("patch_size", 1)
    side = patch if isinstance(patch, int) else patch[-1]
    return [(shape[-2] // side) * (shape[-1] // side), shape[0]]  # Lumina 2 counts channels


def check_stored(method: Fitted, setup: Setup) -> None:
    """Refuse a KB that lacks steps which a fit reads."""
    kb = setup.needs_kb(method.name)
    lacking = [step for step in method.needed_steps(setup) if step not in kb.stored_steps]
    if lacking:
        calls = getattr(method, "calls", None)
        raise UsageError(
            f"the KB {str(kb.root)!r} has no latents after step {lacking[0]}, which "
            f"num_inference_steps={calls} needs: record it with budgets=[{calls}], or with "
            f"methods=[the {method.name!r} method as an object]"
        )


def _answer(method: Fitted, setup: Setup, looks: _Looks) -> None:
    """Answer the calls of a fit, the first of all from what is known of it already."""
    began = time.perf_counter()
    start, first = looks.everywhere(None, torch.arange(len(looks.kb)))
    took = time.perf_counter() - began
    memo, say = Memo(REMEMBERED), looks.say
    calls = method.fitting(setup, start, say)
    try:
        ask = next(calls)
        while True:
            rows = torch.arange(len(ask.latents)) if ask.rows is None else ask.rows.cpu()
            begun = looks.first is not None and float(ask.timestep) == float(looks.first.timestep)
            if begun and torch.equal(ask.latents[rows], start[rows]):
                kept: Kept | None = Kept(first.output[rows], first.take(rows).guidance, took)
            else:
                kept = memo.find(ask)
            if kept is None:
                began = time.perf_counter()
                _, made = looks.everywhere(ask, rows)
                spent = time.perf_counter() - began
                kept = memo.keep(ask, made.output, made.guidance, spent)
            ask = calls.send(kept.to(ask))
    except StopIteration:
        return


class _Looks:
    """Calls of a pipeline that ask its network once for each trajectory of a KB."""

    def __init__(self, pipe: Any, kb: KnowledgeBase, batch_size: int, call: dict[str, Any]) -> None:
        self.pipe, self.kb, self.batch_size, self.call = pipe, kb, batch_size, call
        self.reference_steps: int | None = int(kb.manifest.identity["steps"])
        self.identity, self.look = Identity({}), Look()
        self.first: Ask | None = None
        self.bar: Any = None
        self.task: Any = None

    def describe(self, call: Identity, generator: Any) -> None:
        self.identity = call

    def prepare(self, sampler: Sampler) -> Method:
        require_same(self.kb, self.identity | schedule_identity(sampler))
        self.look = Look(self.look.ask).bind(Setup(sampler))
        return self.look

    def begin(self, sampler: Sampler, latents: Tensor) -> Query:
        return start_of(self.look.noise_scale, latents, [0] * len(latents))

    def finish(self, stand_in: StandIn, networks: Networks) -> None:
        """Nothing is counted."""

    def say(self, text: str) -> None:
        self.bar.update(self.task, description=text)

    def everywhere(self, ask: Ask | None, rows: Tensor) -> tuple[Tensor, Answer]:
        """Latents that the network was shown, and what it said, for some trajectories."""
        parts = []
        for batch in rows.split(self.batch_size):
            parts.append(self._once(batch.tolist(), ask))
            self.bar.advance(self.task)
        outputs = [answer.output.float().cpu() for answer in parts]
        known = [a.guidance.float().cpu() for a in parts if a.guidance is not None]
        guidance = torch.cat(known) if len(known) == len(parts) else None
        if not bool(torch.isfinite(torch.cat(outputs)).all()):
            raise UsageError("the network's prediction is not finite: use another dtype")
        shown = torch.cat([answer.latents.cpu() for answer in parts])
        return shown, Answer(shown, torch.cat(outputs), guidance)

    def _once(self, rows: Sequence[int], ask: Ask | None) -> Answer:
        policy = noise_policy(self.kb)
        given: dict[str, Any] = {
            "generator": [policy.generator(int(self.kb.noise_ids[i])) for i in rows]
        }
        if ask is not None:
            ask = Ask(ask.latents[list(rows)], ask.timestep, 0, ask.divisor, guidance=True)
            given["latents"] = ask.latents
        for name, value in self.call.items():
            if name.startswith("negative_prompt") and isinstance(value, str):
                given[name] = [value] * len(rows)  # some pipelines want one per prompt
        self.look = Look(ask)
        self.pipe(
            **query(self.pipe, [self.kb.prompts[i] for i in rows]),
            **(self.call | given | {"num_inference_steps": 1, "output_type": "latent"}),
        )
        if ask is None:
            self.first = self.look.asked
        return self.look.answer
