"""Corrected sampling on a user's own pipeline: which correction, and fitting it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress
from torch import Tensor

from redi.data.noise import NoisePolicy
from redi.errors import UsageError
from redi.inference import step_group
from redi.knowledge_base import KnowledgeBase
from redi.methods.corrected import Correction, Plan, Recipe, fit_correction, plan
from redi.methods.corrected.predict import Prediction
from redi.methods.corrected.store import (
    correction_path,
    fitted_to,
    load_correction,
    save_correction,
)
from redi.models.identity import model_identity, require_same, schedule_identity
from redi.pipeline.coarse import SUPPORTED, Probe, ProbeProxy
from redi.pipeline.observer import LEVELS
from redi.pipeline.recording import query
from redi.pipeline.session import attach, detach
from redi.samplers import adapt

#: a pipeline shows its scheduler the guided prediction alone
RECIPE = Recipe(features=("prediction", "clean", "previous", "earlier"), levels=(LEVELS,))


def coarse_plan(pipe: Any, kb: KnowledgeBase, calls: int) -> Plan:
    """The plan of `calls` corrected steps; refuses a KB that cannot carry it."""
    identity = kb.manifest.identity
    if identity.get("noise_policy", "shared") == "bank":
        raise UsageError(
            f"the KB {str(kb.root)!r} has several noises (noise.policy=bank) and a pipeline "
            "does not say which one a call starts from: use a KB with one noise, or with all "
            "different ones"
        )
    scheduler = deepcopy(pipe.scheduler)
    scheduler.set_timesteps(int(identity["steps"]))
    sampler = adapt(scheduler)
    require_same(kb, model_identity(pipe) | schedule_identity(sampler))
    if sampler.name not in SUPPORTED:
        raise UsageError(
            f"method='corrected' does not work with the sampler {sampler.name}: use one of "
            f"{', '.join(SUPPORTED)}"
        )
    found = plan(sampler, calls, LEVELS)
    stored = {column.group for column in kb.manifest.columns if column.name == "latents"}
    lacking = [step for step in found.steps[1:] if step_group(step) not in stored]
    if lacking:
        raise UsageError(
            f"the KB {str(kb.root)!r} has no latents after step {lacking[0]}, which "
            f"num_inference_steps={calls} needs: record it with budgets=[{calls}]"
        )
    return found


def fitted(pipe: Any, kb: KnowledgeBase, calls: int) -> Correction:
    """The correction of `calls` steps that lies beside the KB."""
    chosen = coarse_plan(pipe, kb, calls)
    path = correction_path(kb.root, kb.content_hash, calls, RECIPE)
    if not path.is_file():
        raise UsageError(
            f"num_inference_steps={calls} has no fitted correction beside the KB "
            f"{str(kb.root)!r}: call redi.fit(pipe, kb, num_inference_steps={calls}, ...) once"
        )
    return load_correction(path, chosen.sampler, fitted_to(kb))


def fit(
    pipe: Any,
    kb: str | Path | KnowledgeBase,
    *,
    num_inference_steps: int,
    batch_size: int = 1,
    progress: bool = True,
    **call: Any,
) -> Path:
    """Fit corrected sampling with so few steps to the trajectories of a knowledge base.

    Costs one network call per trajectory and step, on the pipeline itself; the correction is kept
    beside the KB, where `enable(pipe, kb, method="corrected", num_inference_steps=...)` finds it.

    Args:
        kb: a KB recorded with this number in `budgets`.
        batch_size: prompts per pipeline call.
        call: the arguments that the KB was recorded with, such as guidance_scale.

    Raises:
        UsageError: the KB does not fit the pipeline or lacks the steps; it names what differs.
    """
    opened = kb if isinstance(kb, KnowledgeBase) else KnowledgeBase(Path(kb))
    chosen = coarse_plan(pipe, opened, num_inference_steps)
    path = correction_path(opened.root, opened.content_hash, num_inference_steps, RECIPE)
    if path.is_file():
        return path
    call.pop("output_type", None)
    rows = [range(i, min(i + batch_size, len(opened))) for i in range(0, len(opened), batch_size)]
    probe = Probe(opened, chosen)
    attach(pipe, probe, probe.describe, ProbeProxy)
    try:
        with Progress(disable=not progress) as bar:
            task = bar.add_task("fitting", total=num_inference_steps * len(rows))

            def look(level: int, y: Tensor | None) -> tuple[Tensor, Tensor]:
                probe.level = level
                parts = []
                for part in rows:
                    parts.append(_look(pipe, probe, part, y, call))
                    bar.advance(task)
                return torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])

            correction = _fit(opened, chosen, look)
    finally:
        detach(pipe)
    save_correction(path, correction, fitted_to(opened))
    return path


def _fit(kb: KnowledgeBase, chosen: Plan, look: Any) -> Correction:
    alpha = chosen.alpha
    start, first = look(0, None)

    def reference(level: int) -> Tensor:
        if level == 0:
            return start.double() / alpha[0]
        return kb.column(step_group(chosen.steps[level]), "latents").double() / alpha[level]

    def predict(y: Tensor, level: int) -> Prediction:
        return Prediction(first if level == 0 else look(level, y)[1])

    return fit_correction(chosen, RECIPE, reference, predict, torch.zeros(len(kb)).long())


def _look(
    pipe: Any, probe: Probe, rows: Sequence[int], y: Tensor | None, call: dict[str, Any]
) -> tuple[Tensor, Tensor]:
    """Latents and noise predictions (B, C, H, W) of some trajectories, by one pipeline call."""
    kb, plan = probe.kb, probe.plan
    policy = kb.manifest.identity
    noise = NoisePolicy(policy.get("noise_policy", "shared"), seed=int(policy["noise_seed"]))
    given: dict[str, Any] = {}
    if y is not None:
        latents = y[list(rows)] * float(plan.alpha[probe.level])
        given["latents"] = latents.to(probe.seen[0])
    ids = [noise.generator(int(kb.noise_ids[i])) for i in rows]
    for name, value in call.items():
        if name.startswith("negative_prompt") and isinstance(value, str):
            given[name] = [value] * len(rows)  # some pipelines want one per prompt
    pipe(
        **query(pipe, [kb.prompts[i] for i in rows]),
        generator=ids,
        num_inference_steps=plan.calls,
        output_type="latent",
        **(call | given),
    )
    seen, prediction = probe.seen
    if y is not None and not torch.equal(seen, given["latents"]):
        raise UsageError(
            f"{type(pipe).__name__} changes the latents it is given: corrections cannot be fitted "
            "to it"
        )
    if not math.isfinite(float(prediction.float().sum())):
        raise UsageError("the network's prediction is not finite: use another dtype")
    return seen.float().cpu(), prediction.float().cpu()
