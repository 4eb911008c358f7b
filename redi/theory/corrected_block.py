"""Retrieval-corrected sampling in the study: fit on the KB prompts, follow the queries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from redi.data.noise import NoisePolicy
from redi.methods.corrected import Correction, Recipe, fit_correction
from redi.methods.few import Plan
from redi.methods.few.placement import plan
from redi.models.base import DiffusionModel
from redi.samplers import Predict, Sampler, build_sampler, drive
from redi.theory.certificate import TOLERANCE
from redi.theory.config import TheoryConfig
from redi.theory.corrected import CorrectedRecord, Follower, corrected_bound, known_lipschitz
from redi.theory.correlation import correlation
from redi.theory.fleet import predictors_of

#: the reference: the most accurate sampler whose updates make one call each
REFERENCE = "dpm_solver_pp"


def corrected_block(
    model: DiffusionModel, queries: Sequence[str], entries: Sequence[str], config: TheoryConfig
) -> tuple[dict[str, Any], dict[int, CorrectedRecord]]:
    """Recursion, constants and predicted errors per number of calls, and what they came from.

    Network calls: `N` per prompt, `n` per entry and `2 n` per query for each budget `n`.
    """
    sampler = build_sampler(
        REFERENCE, model.scheduler_config, config.steps, config.timestep_spacing
    )
    noise = NoisePolicy("shared", 1, config.seed).draw([0], model.latent_shape)
    plans = {calls: plan(sampler, calls) for calls in config.correction_calls}
    wanted = sorted({step for chosen in plans.values() for step in chosen.steps})
    known, asked = (
        predictors_of(model, prompts, config.batch_size) for prompts in (entries, queries)
    )
    sizes = [
        [len(prompts[i : i + config.batch_size]) for i in range(0, len(prompts), config.batch_size)]
        for prompts in (entries, queries)
    ]
    reference = _trajectories(sampler, known, sizes[0], noise, wanted)
    truth = _trajectories(sampler, asked, sizes[1], noise, wanted)
    block: dict[str, Any] = {}
    records: dict[int, CorrectedRecord] = {}
    for calls, chosen in plans.items():
        fitted = _fit(chosen, reference, known, sizes[0])
        records[calls] = record = _follow(fitted, asked, sizes[1], truth)
        block[str(calls)] = _summary(record, fitted, model.latent_shape)
    return block, records


def _fit(
    chosen: Plan,
    reference: dict[int, Tensor],
    predictors: Sequence[Predict],
    sizes: Sequence[int],
) -> Correction:
    def states(level: int) -> Tensor:
        return reference[chosen.steps[level]]

    def predict(latents: Tensor, timestep: Tensor) -> Tensor:
        parts = zip(latents.split(list(sizes)), predictors, strict=True)
        return torch.cat([answer(part, timestep) for part, answer in parts])

    one_noise, start = torch.zeros(sum(sizes), dtype=torch.long), states(0) * chosen.alpha[0]
    return drive(fit_correction(chosen, Recipe(), states, one_noise, start.float()), predict)


def _summary(
    record: CorrectedRecord, fitted: Correction, shape: tuple[int, int, int]
) -> dict[str, Any]:
    constants = torch.tensor(
        [
            known_lipschitz(step, (len(step.features.names) * shape[0], *shape[1:]))
            for step in fitted.steps
        ],
        dtype=torch.float64,
    )
    bound, closed = corrected_bound(record), corrected_bound(record, constants)
    without = CorrectedRecord(
        fitted, record.error, record.secant, record.regression, 0 * record.tau, record.final_norm
    )
    actual, final = record.error, record.relative_error
    assert fitted.predicted_error is not None
    tightness = bound[-1] / actual[-1]
    return {
        "queries": actual.shape[1],
        "violations": int((actual > (1 + TOLERANCE) * bound).any(0).sum()),
        "violations_known_regression_constant": int(
            (actual > (1 + TOLERANCE) * closed).any(0).sum()
        ),
        "regression_constant_violations": int(
            (record.regression > (1 + TOLERANCE) * constants[:, None]).any(0).sum()
        ),
        "violations_without_tau": int(
            (actual > (1 + TOLERANCE) * corrected_bound(without)).any(0).sum()
        ),
        "tightness_median": float(tightness.median()),
        "tightness_p90": float(torch.quantile(tightness, 0.9)),
        "tightness_known_median": float((closed[-1] / actual[-1]).median()),
        "relative_error_mean": float(final.mean()),
        "relative_error_median": float(final.median()),
        "predicted_mean": float(fitted.predicted_error.mean()),
        "predicted_median": float(fitted.predicted_error.median()),
        "bound_correlation": correlation(bound[-1], actual[-1]),
        "parts": [step.part for step in fitted.steps],
    }


def _trajectories(
    sampler: Sampler,
    predictors: Sequence[Predict],
    sizes: Sequence[int],
    noise: Tensor,
    steps: Sequence[int],
) -> dict[int, Tensor]:
    """Normalised reference states (B, C, H, W) float64 after the wanted numbers of updates."""
    kept: dict[int, list[Tensor]] = {step: [] for step in steps}
    alpha = sampler.levels.alpha
    for predict, size in zip(predictors, sizes, strict=True):
        state = sampler.initial(noise.repeat(size, 1, 1, 1))
        kept[0].append(state.latents.double() / alpha[0])
        for record in sampler.records(state, predict):
            step = record.state.step
            if step in kept:
                kept[step].append(record.state.latents.double() / alpha[step])
    return {step: torch.cat(parts) for step, parts in kept.items()}


def _predict(
    chosen: Plan, predictors: Sequence[Predict], sizes: Sequence[int], y: Tensor, level: int
) -> Tensor:
    latents = (y * chosen.alpha[level]).float()
    timestep, step = chosen.timestep(level), chosen.steps[level]
    return torch.cat(
        [
            chosen.sampler.noise_prediction(predict(part, timestep), part, step)
            for part, predict in zip(latents.split(list(sizes)), predictors, strict=True)
        ]
    )


def _follow(
    fitted: Correction,
    predictors: Sequence[Predict],
    sizes: Sequence[int],
    truth: dict[int, Tensor],
) -> CorrectedRecord:
    chosen, start = fitted.plan, truth[0]
    follower = Follower(fitted, start, [0] * len(start))
    for level in range(chosen.calls):
        predictions = [
            _predict(chosen, predictors, sizes, y, level) for y in (follower.y, follower.y_exact)
        ]
        follower.advance(predictions[0], predictions[1], truth[chosen.steps[level + 1]])
    return follower.record()
