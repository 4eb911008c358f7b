"""Fitted corrections on disk: one sealed file each, which says what it was fitted to."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from redi.lazy import Tensor
from redi.methods.corrected.adaptive import BudgetPolicy
from redi.methods.corrected.corrector import Correction, Kernels, StepCorrection
from redi.methods.corrected.features import Features
from redi.methods.corrected.fit import Recipe
from redi.methods.corrected.kernel import Choice, KernelRidge
from redi.methods.corrected.local import PatchRidge
from redi.methods.corrected.nearest import NearestRidge
from redi.methods.few.bases import BASES
from redi.methods.few.store import (
    FIX,
    cost_from,
    damage,
    fit_path,
    named,
    plan_from,
    require_finite,
)
from redi.reading import whole
from redi.samplers import Sampler
from redi.sealed import load_sealed, save_sealed

_FORMAT = "redi correction 4"
_CORRECTION, _POLICY = "the correction", "the adaptive budget"


def correction_path(
    root: Path, kb_hash: str, calls: int, recipe: Recipe, analytic: bool = False
) -> Path:
    """Where a correction lies beside its knowledge base; any other KB, budget or recipe differs."""
    chosen = {name: value for name, value in asdict(recipe).items() if value is not None}
    return fit_path(root, kb_hash, "corrected", [calls, chosen, analytic], _FORMAT)


def save_correction(path: Path, correction: Correction, of: Mapping[str, Any]) -> None:
    """Write durably; what is read back computes the same numbers. `of` is `fitted_to` the KB."""
    tensors: dict[str, Tensor] = {}
    if correction.predicted_error is not None:
        tensors["predicted_error"] = correction.predicted_error
    steps: list[dict[str, Any]] = []
    for i, step in enumerate(correction.steps):
        entry: dict[str, Any] = {"features": asdict(step.features), "errors": step.errors}
        if step.local is not None:
            tensors[f"{i}.local.weight"] = step.local.weight
            tensors[f"{i}.local.bias"] = step.local.bias
            entry["local"] = {"patch": step.local.patch, "ridge": step.local.ridge}
        entry["kernels"] = {}
        for partition, kernel in step.kernels.items():
            outputs = "targets" if isinstance(kernel, NearestRidge) else "coefficients"
            for name in ("centre", "inputs", outputs):
                tensors[f"{i}.kernel.{partition}.{name}"] = getattr(kernel, name)
            entry["kernels"][partition] = {
                "choice": asdict(kernel.choice),
                "scale": kernel.scale,
                "nearest": getattr(kernel, "nearest", None),
            }
        steps.append(entry)
    content = {
        "steps": correction.plan.steps,
        "analytic": correction.plan.analytic,
        "cost": asdict(correction.cost),
        "base": correction.base,
        "corrections": steps,
    }
    save_sealed(path, _CORRECTION, named(path, of), tensors, content)


def policy_path(
    root: Path, kb_hash: str, budgets: Sequence[int], recipe: Recipe, tolerance: float, risk: float
) -> Path:
    """Where an adaptive budget lies, beside the corrections that it chooses from."""
    names = [correction_path(root, kb_hash, calls, recipe).stem for calls in budgets]
    return fit_path(root, kb_hash, "adaptive", [names, tolerance, risk], _FORMAT)


def save_policy(path: Path, policy: BudgetPolicy, of: Mapping[str, Any]) -> None:
    """Write durably."""
    kernel = policy.regression
    tensors = {name: getattr(kernel, name) for name in ("centre", "inputs", "coefficients")}
    content = {
        "budgets": policy.budgets,
        "threshold": repr(policy.threshold),
        "tolerance": policy.tolerance,
        "risk": policy.risk,
        "fixed": policy.fixed,
        "choice": asdict(kernel.choice),
        "scale": kernel.scale,
    }
    save_sealed(path, _POLICY, named(path, of), tensors, content)


def load_policy(path: Path, of: Mapping[str, Any]) -> BudgetPolicy:
    """Read an adaptive budget; a `UsageError` names a file that is damaged or of another KB."""
    read = load_sealed(path, _POLICY, named(path, of), FIX)
    content = read.content
    with damage(path, _POLICY):
        require_finite(read.tensors)
        choice = Choice(**content["choice"])
        kernel = KernelRidge(**read.tensors, choice=choice, scale=content["scale"])
        threshold, fixed = float(content["threshold"]), content["fixed"]
        if math.isnan(threshold):
            raise ValueError("its threshold is no number")
        return BudgetPolicy(
            tuple(whole(calls, 1) for calls in content["budgets"]),
            kernel,
            threshold,
            float(content["tolerance"]),
            float(content["risk"]),
            None if fixed is None else whole(fixed, 1),
        )


def load_correction(path: Path, sampler: Sampler, of: Mapping[str, Any]) -> Correction:
    """Read a correction to this reference; a `UsageError` names a damaged or foreign file."""
    read = load_sealed(path, _CORRECTION, named(path, of), FIX)
    content = read.content
    with damage(path, _CORRECTION):
        require_finite(read.tensors)
        steps = [_step(i, entry, read.tensors) for i, entry in enumerate(content["corrections"])]
        plan = plan_from(path, content, sampler)
        if content["base"] not in BASES:
            raise ValueError(f"base {content['base']!r}")
        if len(steps) != plan.calls:
            raise ValueError(f"{len(steps)} corrections for the levels {plan.steps}")
        predicted, cost = read.tensors.get("predicted_error"), cost_from(content)
    return Correction(plan, content["base"], tuple(steps), predicted, cost)


def _step(i: int, entry: dict[str, Any], tensors: dict[str, Tensor]) -> StepCorrection:
    features = Features(tuple(entry["features"]["names"]), tuple(entry["features"]["scales"]))
    local = None
    if "local" in entry:
        weight, bias = (tensors[f"{i}.local.{name}"] for name in ("weight", "bias"))
        local = PatchRidge(weight, bias, entry["local"]["patch"], entry["local"]["ridge"])
    kernels: Kernels = {}
    for partition, kernel in entry["kernels"].items():
        where, choice, scale = (
            f"{i}.kernel.{partition}",
            Choice(**kernel["choice"]),
            kernel["scale"],
        )
        centre, inputs = tensors[f"{where}.centre"], tensors[f"{where}.inputs"]
        kernels[int(partition)] = (
            KernelRidge(centre, inputs, tensors[f"{where}.coefficients"], choice, scale)
            if kernel.get("nearest") is None
            else NearestRidge(
                centre, inputs, tensors[f"{where}.targets"], choice, scale, kernel["nearest"]
            )
        )
    return StepCorrection(features, local, kernels, entry["errors"])
