"""Recording a knowledge base with a user's own pipeline."""

from __future__ import annotations

import inspect
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from redi.data.noise import NoisePolicy
from redi.errors import UsageError
from redi.inference import step_group
from redi.knowledge_base import Column, Entry, KnowledgeBase, Manifest, Writer
from redi.methods.corrected.plan import check_calls, check_reference, coarse_steps
from redi.pipeline.identity import model_identity, schedule_identity, stored_shape
from redi.pipeline.session import attach, detach
from redi.samplers import Sampler, SamplerState
from redi.verbs.provenance import versions

#: where the calls of corrected runs lie: late levels leave less over, on the embedded model
LEVELS = "late1.6"


class Recording:
    """A plan that changes nothing and keeps the states at the stored steps."""

    def __init__(
        self,
        key_step: int | None,
        value_steps: Sequence[int],
        budgets: Sequence[int],
        history: bool,
    ) -> None:
        self.key_step, self.value_steps, self.history = key_step, tuple(value_steps), history
        self.budgets, self.steps = tuple(budgets), list[int]()
        self.kept: dict[tuple[str, str], Tensor] = {}
        self.call: dict[str, Any] = {}

    def describe(self, call: dict[str, Any]) -> None:
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

    def begin(self, sampler: Sampler, latents: Tensor) -> None:
        self.shape = stored_shape(latents)

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


def record(
    pipe: Any,
    prompts: Sequence[str],
    kb: str | Path,
    *,
    key_step: int | None = None,
    value_steps: Sequence[int] = (),
    budgets: Sequence[int] = (),
    batch_size: int = 1,
    noise: str = "shared",
    seed: int = 0,
    store_history: bool = False,
    **call: Any,
) -> KnowledgeBase:
    """Run an unmodified diffusers pipeline on prompts and keep its trajectories in folder `kb`.

    Killed at any point, the same command goes on with the first missing shard of `batch_size`
    trajectories.

    Args:
        key_step, value_steps: completed updates after which latents are kept, for
            `method="redi"`.
        budgets: numbers of corrected steps that `fit` will be asked for, for
            `method="corrected"`.
        batch_size: prompts per pipeline call, and trajectories per file; the last call is filled
            up by repeating the last prompt.
        noise: "shared": every trajectory starts from the noise of `generators(kb)`; "per_prompt":
            each from its own, which serves `method="corrected"` from any noise.
        seed: of the noise.
        store_history: also keep what multistep samplers carry, for `resume="retrieved"`.
        call: further arguments of the pipeline, such as num_inference_steps and guidance_scale.

    Raises:
        UsageError: the folder holds a KB of another setting, or the sampler is stochastic.
    """
    if not prompts:
        raise UsageError("prompts is empty: give at least one prompt")
    if noise not in ("shared", "per_prompt"):
        raise UsageError(f"noise={noise!r} is unknown; use shared or per_prompt")
    if batch_size < 1:
        raise UsageError(f"batch_size={batch_size} is too small: use at least 1")
    if not budgets and not (key_step is not None and value_steps):
        raise UsageError(
            "nothing would be kept: give key_step and value_steps, or budgets, or all three"
        )
    if value_steps and key_step is None:
        raise UsageError(f"value_steps={list(value_steps)} need a key_step before them: give it")
    if key_step is not None and (bad := [v for v in value_steps if v <= key_step]):
        raise UsageError(f"value_steps has {bad[0]}, which is not after key_step={key_step}")
    taken = {"prompt", "generator", "latents", "num_images_per_prompt"} & set(call)
    if taken:
        raise UsageError(f"{min(taken)} cannot be given: record() chooses it for every trajectory")
    for name, value in call.items():
        if name.startswith("negative_prompt") and isinstance(value, str):
            call[name] = [value] * batch_size  # some pipelines want one per prompt
    plan, root = Recording(key_step, value_steps, budgets, store_history), Path(kb)
    model, count = model_identity(pipe), len(prompts)
    padded = [*prompts, *[prompts[-1]] * (-count % batch_size)]
    policy, writer = NoisePolicy(noise, seed=seed), None
    attach(pipe, plan, plan.describe)
    try:
        shard = 0
        while shard * batch_size < count:
            rows = range(shard * batch_size, (shard + 1) * batch_size)
            chosen = [padded[i] for i in rows]
            ids = [policy.kb_id(min(i, count - 1)) for i in rows]
            starts = [policy.generator(i) for i in ids]
            pipe(**query(pipe, chosen), generator=starts, **call)
            if writer is None:
                identity = {
                    **model,
                    **schedule_identity(plan.sampler),
                    **plan.call,
                    "latent_shape": list(plan.shape),
                    "key_step": key_step,
                    "stored_steps": plan.steps,
                    "noise_policy": policy.policy,
                    "noise_seed": seed,
                    "pipeline": type(pipe).__name__,
                }
                manifest = Manifest(json.loads(json.dumps(identity)), plan.columns(), batch_size)
                writer = Writer(root, manifest, versions())
                todo = writer.missing(count)
            if shard in todo:
                arrays: dict[tuple[str, str], np.ndarray] = {
                    name: tensor.numpy() for name, tensor in plan.kept.items()
                }
                entries = [Entry(i, padded[i], its) for i, its in zip(rows, ids, strict=True)]
                writer.write(shard, arrays, entries)
            shard = next((s for s in todo if s > shard), count)
    finally:
        detach(pipe)
    return KnowledgeBase(root, count)


def query(pipe: Any, prompts: list[str]) -> dict[str, Any]:
    """How a pipeline takes a batch of prompts; an unconditional one only takes its size."""
    parameters = inspect.signature(type(pipe).__call__).parameters
    return {"prompt": prompts} if "prompt" in parameters else {"batch_size": len(prompts)}
