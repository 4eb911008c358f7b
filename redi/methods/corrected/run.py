"""Corrected runs: a few calls, each step corrected from the knowledge base."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from redi.inference import Outcome, Stopwatch, run_plain
from redi.methods.corrected.adaptive import BudgetPolicy
from redi.methods.corrected.base import Visit, visit
from redi.methods.corrected.corrector import Correction
from redi.methods.corrected.plan import Plan
from redi.methods.corrected.predict import Prediction, Predictor
from redi.models.base import Conditioning, DiffusionModel
from redi.models.meter import now


def run_corrected(
    model: DiffusionModel,
    correction: Correction,
    conditioning: Conditioning,
    noise: Tensor,
    partitions: list[int],
    first: Prediction | None = None,
) -> Outcome:
    """Final latents of a batch from unit noise (B, C, H, W), with `correction.plan.calls` calls.

    The state is kept in float64, the network sees it in its own precision. The correction has to
    be on the model's device. `first` is the prediction at pure noise where it has been made
    already; it is not counted again.
    """
    plan, watch, retrieval = correction.plan, Stopwatch(model), 0.0
    predictor = Predictor(plan, model, conditioning)
    start = plan.sampler.initial(noise).latents
    y = start.double() / float(plan.alpha[0])
    visits: list[Visit] = []
    for level in range(plan.calls):
        latents = (y * float(plan.alpha[level])).to(start)
        known = first if level == 0 else None
        prediction = predictor(level, latents) if known is None else known
        began = now(model.meter.device)
        visits.append(visit(float(plan.rho[level]), y, prediction))
        y = correction.step(level, visits, partitions)
        retrieval += now(model.meter.device) - began
    final = (y * float(plan.alpha[-1])).to(start)
    return Outcome(final, watch.stop(len(conditioning), retrieval))


def first_look(
    model: DiffusionModel, plan: Plan, conditioning: Conditioning, noise: Tensor
) -> tuple[Visit, Prediction]:
    """The first call of every budget: the visit of pure noise and its prediction."""
    latents = plan.sampler.initial(noise).latents
    prediction = Predictor(plan, model, conditioning)(0, latents)
    return visit(
        float(plan.rho[0]), latents.double() / float(plan.alpha[0]), prediction
    ), prediction


def run_adaptive(
    model: DiffusionModel,
    policy: BudgetPolicy,
    corrections: Mapping[int, Correction],
    conditioning: Conditioning,
    noise: Tensor,
    partitions: list[int],
) -> Outcome:
    """Each query with the budget that its first call asks for; the cost is that of the mean.

    `corrections` holds a correction for each of the policy's budgets. Full sampling, where the
    policy asks for it, is the reference's own, and starts anew.
    """
    some = next(iter(corrections.values()))
    watch = Stopwatch(model)
    here, prediction = first_look(model, some.plan, conditioning, noise)
    chosen = policy.calls(some.steps[0].features([here]).flatten(1))
    cost, latents = watch.stop(len(conditioning)), torch.empty_like(noise)
    for calls in dict.fromkeys(chosen):
        rows = [i for i, wanted in enumerate(chosen) if wanted == calls]
        asked = model.encode([conditioning.prompts[i] for i in rows])
        if calls is None:
            outcome = run_plain(model, some.plan.sampler, asked, noise[rows])
        else:
            parts, known = [partitions[i] for i in rows], _rows(prediction, rows)
            outcome = run_corrected(model, corrections[calls], asked, noise[rows], parts, known)
        latents[rows] = outcome.latents
        share = len(rows) / len(conditioning)
        cost += replace(outcome.cost, calls=outcome.cost.calls * share)
    return Outcome(latents, cost)


def _rows(prediction: Prediction, rows: list[int]) -> Prediction:
    guidance = prediction.guidance
    return Prediction(prediction.noise[rows], None if guidance is None else guidance[rows])
