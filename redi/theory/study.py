"""`redi theory`: every statement of PROOF.md checked on a model and a set of prompts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from redi.errors import UsageError
from redi.models.base import DiffusionModel
from redi.samplers import SAMPLERS
from redi.theory.blocks import (
    KnownLipschitz,
    certificate_block,
    conformal_block,
    estimator_block,
    known_constant_block,
    plug_in_block,
)
from redi.theory.bounds import PlugIn, estimate_constants
from redi.theory.config import TheoryConfig
from redi.theory.corrected import CorrectedRecord
from redi.theory.corrected_block import corrected_block
from redi.theory.figures import draw_corrected, draw_figures
from redi.theory.losses import NO_LOSSES, Loss
from redi.theory.observe import Observation, observe
from redi.theory.order import Order, convergence_order

Progress = Callable[[str], None]


def run_study(
    model: DiffusionModel,
    sampler_names: Sequence[str],
    queries: Sequence[str],
    kb_prompts: Sequence[str],
    config: TheoryConfig,
    progress: Progress = print,
    out_dir: Path | None = None,
    losses: Mapping[str, Loss] = NO_LOSSES,
) -> dict[str, Any]:
    """Check certificate, known constant, order, plug-in bounds, adaptive skip, corrections.

    Every trajectory starts from the same noise. Memory is a few latents per prompt; network calls
    per sampler are about `N (Q + M) + (v - k)(H + 4) Q + sum_v (N - v) Q` for Q queries, M entries
    and the last value step v.

    Args:
        model: any model; one with a `lipschitz` method is also checked against its constant.
        sampler_names: from ddim, pndm, dpm_solver, dpm_solver_pp.
        queries: at least 10 prompts, none of them among `kb_prompts`, in exchangeable order.
        kb_prompts: at least `config.neighbours` prompts.
        progress: called with one line per finished part.
        out_dir: folder for the figures (made if missing); None draws none.
        losses: of pictures, that bounds and distances are correlated with too.

    Returns:
        The block `"theory"` of results.json, plain numbers only.

    Raises:
        UsageError: unknown sampler, too few prompts, or a grid on which the theory does not hold.
    """
    _check(sampler_names, queries, kb_prompts, config)
    calibration = _calibration_mask(len(queries), config)
    block: dict[str, Any] = {
        "config": asdict(config),
        "queries": len(queries),
        "entries": len(kb_prompts),
        "certificate": {},
        "known_constant": {} if isinstance(model, KnownLipschitz) else None,
        "estimators": {},
        "plug_in": {},
        "conformal": {},
        "order": {},
    }
    seen: dict[str, Observation] = {}
    constants: dict[str, list[PlugIn]] = {}
    orders: dict[str, Order] = {}
    for name in sampler_names:
        seen[name] = here = observe(model, name, queries, kb_prompts, config, losses)
        constants[name] = [
            estimate_constants(here.pairs, here.jumps, calibration, quantile)
            for quantile in config.quantiles
        ]
        block["certificate"][name] = certificate_block(here, config.perturbation)
        if isinstance(model, KnownLipschitz):
            block["known_constant"][name] = known_constant_block(model, here)
        largest = {
            estimator: estimate_constants(here.pairs, jumps, calibration, config.quantiles[-1])
            for estimator, jumps in here.by_estimator.items()
        }
        block["estimators"][name] = estimator_block(here, largest, ~calibration)
        block["plug_in"][name] = plug_in_block(here, constants[name], ~calibration)
        block["conformal"][name] = conformal_block(here, constants[name][-1], calibration, config)
        orders[name] = convergence_order(name, config.order_steps, config.seed)
        block["order"][name] = asdict(orders[name])
        found = block["certificate"][name]
        progress(
            f"{name}: {found['violations']} violations in {found['pairs']} pairs, "
            f"order {orders[name].slope:.2f}"
        )
    followed: dict[int, CorrectedRecord] = {}
    if config.correction_calls:
        block["corrected"], followed = corrected_block(model, queries, kb_prompts, config)
        for calls, found in block["corrected"].items():
            progress(
                f"corrected, {calls} calls: {found['violations']} violations in "
                f"{found['queries']} runs, relative error {found['relative_error_median']:.4f} "
                f"(predicted {found['predicted_median']:.4f})"
            )
    if out_dir is not None:
        out_dir.mkdir(parents=True, exist_ok=True)
        draw_figures(block, seen, constants, out_dir)
        if followed:
            draw_corrected(followed, out_dir / "corrected.png")
        progress(f"figures in {out_dir}")
    return block


def split_prompts(prompts: Sequence[str], queries: int, seed: int) -> tuple[list[str], list[str]]:
    """A random set of `queries` different prompts and the rest as KB prompts, both shuffled."""
    distinct = list(dict.fromkeys(prompts))
    if queries >= len(distinct):
        raise UsageError(
            f"theory.queries={queries} leaves none of the {len(distinct)} prompts for the KB: "
            "use fewer queries"
        )
    generator = torch.Generator().manual_seed(seed)
    shuffled = [distinct[i] for i in torch.randperm(len(distinct), generator=generator).tolist()]
    return shuffled[:queries], shuffled[queries:]


def _calibration_mask(count: int, config: TheoryConfig) -> Tensor:
    """Queries (Q,) that plug-in constants and score scales are estimated from."""
    generator = torch.Generator().manual_seed(config.seed)
    order = torch.randperm(count, generator=generator)
    mask = torch.zeros(count, dtype=torch.bool)
    mask[order[: round(count * config.calibration_share)]] = True
    return mask


def _check(
    sampler_names: Sequence[str],
    queries: Sequence[str],
    kb_prompts: Sequence[str],
    config: TheoryConfig,
) -> None:
    for name in sampler_names:
        if name not in SAMPLERS:
            raise UsageError(
                f"theory.samplers={name!r} is unknown: use some of {', '.join(SAMPLERS)}"
            )
    if len(queries) < 10:
        raise UsageError(f"theory needs at least 10 query prompts, got {len(queries)}: add some")
    if len(kb_prompts) < config.neighbours:
        raise UsageError(
            f"theory.neighbours={config.neighbours} is more than the {len(kb_prompts)} prompts of "
            "the KB: use fewer neighbours or more prompts"
        )
    shared = sorted(set(queries) & set(kb_prompts))
    if shared:
        raise UsageError(
            f"the prompt {shared[0]!r} is both a query and in the KB: keep the two sets apart"
        )
