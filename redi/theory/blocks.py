"""The measured statements of one sampler as blocks of `results.json`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from redi.methods.conformal import evaluate_skip, scale_scores
from redi.theory.bounds import FORMS, PlugIn, certified_error
from redi.theory.certificate import (
    TOLERANCE,
    certificate,
    check,
    gronwall,
    known_constant,
    step_map_certificate,
)
from redi.theory.config import TheoryConfig
from redi.theory.correlation import correlation
from redi.theory.jump import JumpRecord
from redi.theory.observe import Observation


@runtime_checkable
class KnownLipschitz(Protocol):
    """A model whose noise prediction has a Lipschitz constant in closed form."""

    def lipschitz(self, prompts: Sequence[str], timestep: int) -> Tensor:
        """Global constants (B,) of the guided noise prediction at a timestep."""
        ...


def certificate_block(seen: Observation, perturbation: float) -> dict[str, Any]:
    """Violations of the certificate, and of its controls (PROOF.md, section 10)."""
    pairs, verdict = seen.pairs, check(seen.pairs)
    tiny = torch.finfo(torch.float32).tiny
    caught = {
        name: int((residual > TOLERANCE * pairs.move[step] + pairs.rounding[step]).sum())
        for name, (step, residual) in pairs.perturbed.items()
    }
    every = len(seen.queries)
    nearest_first = torch.arange(len(pairs.query)) % (len(pairs.query) // every) == 0
    swapped, near = check(seen.swapped_pairs), pairs.take(nearest_first)
    return {
        "pairs": len(pairs.query),
        "updates": len(pairs.updates),
        "violations": int(verdict.violated.sum()),
        "identity_violations": int(verdict.identity.sum()),
        "split_violations": int(verdict.split.sum()),
        "bound_violations": int(verdict.bound.sum()),
        "max_ratio": float(verdict.ratio.max()),
        "median_tightness": float((certificate(pairs)[-1] / pairs.distance[-1]).median()),
        "median_tightness_step_map": float(
            (step_map_certificate(pairs)[-1] / pairs.distance[-1]).median()
        ),
        "max_residual": float((pairs.residual / pairs.move.clamp(min=tiny)).max()),
        "max_rounding_share": float((pairs.rounding.sum(0) / certificate(pairs)[-1]).max()),
        "tolerance": TOLERANCE,
        "jump_violations": {
            str(v): sum(exceeded(jump, certified_error(pairs, jump, form)) for form in FORMS)
            for v, jump in seen.jumps.items()
        },
        "perturbation": perturbation,
        "perturbed_violations": caught,
        "swapped_prompt": {"pairs": len(swapped.ratio), "violations": int(swapped.violated.sum())},
        "random_neighbour": {
            "pairs": len(seen.random_pairs.query),
            "violations": int(check(seen.random_pairs).violated.sum()),
            "median_distance": float(seen.random_pairs.distance[-1].median()),
            "median_bound": float(certificate(seen.random_pairs)[-1].median()),
            "nearest_median_distance": float(near.distance[-1].median()),
            "nearest_median_bound": float(certificate(near)[-1].median()),
        },
    }


def estimator_block(
    seen: Observation, constants: Mapping[str, PlugIn], held_out: Tensor
) -> dict[str, Any]:
    """Error and bounds of every estimator per value step (section 6); `constants` by estimator."""
    block: dict[str, Any] = {}
    for estimator, jumps in seen.by_estimator.items():
        block[estimator] = rows = {}
        for v, jump in jumps.items():
            certified = {form: certified_error(seen.pairs, jump, form) for form in FORMS}
            plug_in = {form: constants[estimator].error(seen.pairs, jump, form) for form in FORMS}
            rows[str(v)] = {
                "violations": sum(exceeded(jump, bound) for bound in certified.values()),
                "median_relative_error": float(jump.relative_error.median()),
                "certificate": {f: coverage(b, final_error(jump)) for f, b in certified.items()},
                "plug_in": {
                    form: coverage(bound[held_out], final_error(jump)[held_out])
                    for form, bound in plug_in.items()
                },
            }
    return block


def exceeded(jump: JumpRecord, bound: Tensor) -> int:
    """Queries whose final error exceeds its bound (Q,) beyond the tolerance."""
    return int((final_error(jump) > (1 + TOLERANCE) * bound).sum())


def final_error(jump: JumpRecord) -> Tensor:
    """Actual error `||x_N - x^_N||` (Q,) of the final latent."""
    return jump.final_alpha * jump.distance[-1]


def known_constant_block(model: KnownLipschitz, seen: Observation) -> dict[str, Any]:
    """Recursion (2) and its closed form (3) with the model's own constant (section 5)."""
    pairs = seen.pairs
    eta = known_eta(model, seen)
    recursion = known_constant(pairs, eta)
    closed = gronwall(pairs, seen.sampler, eta.amax(0))
    actual, allowed = pairs.distance, 1 + TOLERANCE
    return {
        "pairs": len(pairs.query),
        "violations": int((actual > allowed * recursion).any(0).sum()),
        "gronwall_violations": int((actual > allowed * closed).any(0).sum()),
        "secant_violations": int((pairs.secant > allowed * eta).any(0).sum()),
        "max_secant_share": float((pairs.secant / eta).max()),
        "median_log10_tightness": float((recursion[-1] / actual[-1]).log10().median()),
        "median_log10_gronwall_tightness": float((closed[-1] / actual[-1]).log10().median()),
    }


def known_eta(model: KnownLipschitz, seen: Observation) -> Tensor:
    """Known constants (n, P) along the pairs."""
    rows = [
        model.lipschitz(seen.queries, int(seen.sampler.call_timesteps[update.index][0]))
        for update in seen.pairs.updates
    ]
    return torch.stack(rows).double()[:, seen.pairs.query]


def plug_in_block(
    seen: Observation, constants: Sequence[PlugIn], held_out: Tensor
) -> dict[str, Any]:
    """Coverage and tightness per value step, on queries (Q,) that made no constant (section 7)."""
    chosen = seen.pairs.take(held_out[seen.pairs.query])
    key_step = seen.pairs.updates[0].index
    block: dict[str, Any] = {}
    for v, jump in seen.jumps.items():
        actual = final_error(jump)[held_out]
        rows = []
        for plug_in in constants:
            for form in FORMS:
                at_value = plug_in.pair_bounds(chosen, form)[v - key_step]
                picture = plug_in.picture_error(seen.pairs, jump, form)[held_out]
                rows.append(
                    {
                        "quantile": plug_in.quantile,
                        "form": form,
                        "pairs": coverage(at_value, chosen.distance[v - key_step]),
                        "final": coverage(plug_in.error(seen.pairs, jump, form)[held_out], actual),
                        "picture": coverage(picture, jump.picture_error[held_out]),
                        "decoder_constant": plug_in.decoder,
                    }
                )
        certified = {form: certified_error(seen.pairs, jump, form) for form in FORMS}
        predictors = {
            **{f"certificate_{form}": bound for form, bound in certified.items()},
            **{f"plug_in_{f}": constants[-1].error(seen.pairs, jump, f) for f in FORMS},
            "key_distance": seen.key_distance,
            "fit_residual": seen.fit_residual,
        }
        block[str(v)] = {
            "bounds": rows,
            "certificate": {
                form: coverage(bound[held_out], actual) for form, bound in certified.items()
            },
            "median_relative_error": float(jump.relative_error[held_out].median()),
            "median_history_term": float(jump.history_term.sum(0)[held_out].median()),
            "correlation": {
                name: correlation(values[held_out], actual) for name, values in predictors.items()
            },
            "picture_correlation": {
                loss: {
                    name: correlation(values[held_out], lost[held_out])
                    for name, values in {**predictors, "final_error": final_error(jump)}.items()
                }
                for loss, lost in jump.losses.items()
            },
        }
    return block


def coverage(bound: Tensor, actual: Tensor) -> dict[str, float]:
    """Share of cases within the bound, and bound / actual (median and 90th percentile)."""
    ratio = bound / actual.clamp(min=torch.finfo(torch.float32).tiny)
    return {
        "cases": len(ratio),
        "coverage": float((actual <= bound).double().mean()),
        "tightness_median": float(ratio.median()),
        "tightness_p90": float(torch.quantile(ratio, 0.9)),
    }


def conformal_block(
    seen: Observation, plug_in: PlugIn, calibration: Tensor, config: TheoryConfig
) -> dict[str, Any]:
    """Adaptive skip per score and level over random splits of the other queries (section 8)."""
    errors = torch.stack([jump.relative_error for jump in seen.jumps.values()], 1)  # (Q, V)
    savings = torch.tensor([seen.calls_saved(v) for v in seen.jumps])
    tolerance = config.tolerance
    if tolerance is None:
        tolerance = float(errors[calibration, errors.shape[1] // 2].median())
    bounds = [plug_in.error(seen.pairs, jump, "step_map") for jump in seen.jumps.values()]
    raw = {
        "key_distance": seen.key_distance[:, None].expand_as(errors),
        "fit_residual": seen.fit_residual[:, None].expand_as(errors),
        "plug_in": torch.stack(bounds, 1),
    }
    rest = ~calibration
    fixed = scale_scores(torch.ones_like(errors), errors, calibration)
    block: dict[str, Any] = {
        "tolerance": tolerance,
        "queries": int(rest.sum()),
        "splits": config.splits,
        "value_steps": list(seen.jumps),
        "calls_saved_by_value_step": savings.tolist(),
        "failures_by_value_step": (errors[rest] > tolerance).double().mean(0).tolist(),
        "scores": {},
    }
    for name, values in raw.items():
        scores = scale_scores(values, errors, calibration)
        block["scores"][name] = [
            asdict(
                evaluate_skip(
                    scores[rest],
                    fixed[rest],
                    errors[rest],
                    savings,
                    tolerance,
                    level,
                    config.splits,
                    config.seed,
                )
            )
            for level in config.levels
        ]
    return block
