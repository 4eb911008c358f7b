"""Fitted corrections on disk: one safetensors file, named by what it was fitted to."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from redi.errors import UsageError
from redi.files import write_durably
from redi.methods.corrected.adaptive import BudgetPolicy
from redi.methods.corrected.corrector import Correction, Kernels, StepCorrection
from redi.methods.corrected.features import Features
from redi.methods.corrected.fit import Recipe
from redi.methods.corrected.kernel import Choice, KernelRidge
from redi.methods.corrected.local import PatchRidge
from redi.methods.corrected.nearest import NearestRidge
from redi.methods.corrected.plan import Plan
from redi.samplers import Sampler

_FORMAT = "redi correction 2"


def correction_path(root: Path, kb_hash: str, calls: int, recipe: Recipe) -> Path:
    """Where a correction lies beside its knowledge base; any other KB, budget or recipe differs."""
    chosen = {name: value for name, value in asdict(recipe).items() if value is not None}
    text = json.dumps([_FORMAT, kb_hash, calls, chosen], sort_keys=True)
    return root / "corrections" / f"{hashlib.sha256(text.encode()).hexdigest()[:12]}.safetensors"


def save_correction(path: Path, correction: Correction) -> None:
    """Write durably; what is read back computes the same numbers."""
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
    plan = correction.plan
    content = {"steps": plan.steps, "base": correction.base, "corrections": steps}
    metadata = {"format": _FORMAT, "content": json.dumps(content)}
    whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
    write_durably(path, lambda temporary: save_file(whole, temporary, metadata))


def policy_path(
    root: Path, kb_hash: str, budgets: Sequence[int], recipe: Recipe, tolerance: float, risk: float
) -> Path:
    """Where an adaptive budget lies, beside the corrections that it chooses from."""
    names = [correction_path(root, kb_hash, calls, recipe).stem for calls in budgets]
    text = json.dumps([_FORMAT, names, tolerance, risk])
    name = f"budget-{hashlib.sha256(text.encode()).hexdigest()[:12]}.safetensors"
    return root / "corrections" / name


def save_policy(path: Path, policy: BudgetPolicy) -> None:
    """Write durably."""
    kernel = policy.regression
    names = ("centre", "inputs", "coefficients")
    tensors = {name: getattr(kernel, name).contiguous() for name in names}
    content = {
        "budgets": policy.budgets,
        "threshold": repr(policy.threshold),
        "tolerance": policy.tolerance,
        "risk": policy.risk,
        "fixed": policy.fixed,
        "choice": asdict(kernel.choice),
        "scale": kernel.scale,
    }
    metadata = {"format": _FORMAT, "content": json.dumps(content)}
    write_durably(path, lambda temporary: save_file(tensors, temporary, metadata))


def load_policy(path: Path) -> BudgetPolicy:
    """Read an adaptive budget; a `UsageError` names a damaged file."""
    try:
        with safe_open(path, framework="pt") as file:
            content = json.loads((file.metadata() or {})["content"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        kernel = KernelRidge(**tensors, choice=Choice(**content["choice"]), scale=content["scale"])
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise UsageError(
            f"the adaptive budget {str(path)!r} is damaged ({error}): delete it, it is fitted again"
        ) from None
    return BudgetPolicy(
        tuple(content["budgets"]),
        kernel,
        float(content["threshold"]),
        content["tolerance"],
        content["risk"],
        content["fixed"],
    )


def load_correction(path: Path, sampler: Sampler) -> Correction:
    """Read a correction to this reference; a `UsageError` names a damaged or foreign file."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        content = json.loads(metadata["content"])
        steps = [_step(i, entry, tensors) for i, entry in enumerate(content["corrections"])]
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise UsageError(
            f"the correction {str(path)!r} is damaged ({error}): delete it, it is fitted again"
        ) from None
    if metadata.get("format") != _FORMAT or content["steps"][-1] != sampler.num_steps:
        raise UsageError(f"the correction {str(path)!r} is of another plan: delete it")
    plan = Plan(sampler, tuple(content["steps"]))
    return Correction(plan, content["base"], tuple(steps), tensors.get("predicted_error"))


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
