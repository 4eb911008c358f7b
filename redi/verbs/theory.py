"""`redi theory`: the bounds checked on one model, with results and figures in a folder."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from redi.files import write_json
from redi.lazy import torch
from redi.metrics.evaluator import EMBEDDED_EVALUATOR, Evaluator
from redi.models.base import DiffusionModel
from redi.models.mixture import MixtureModel
from redi.models.noise_form import NoiseForm
from redi.theory.config import TheoryRunConfig
from redi.theory.losses import NO_LOSSES, picture_losses
from redi.theory.study import run_study, split_prompts
from redi.verbs.assemble import model_from, prompts_from
from redi.verbs.folders import check_folder
from redi.verbs.provenance import git_revision, machine, versions


def _corrected_table(block: dict[str, Any]) -> Table:
    table = Table(title="Retrieval-corrected sampling: relative error of the final latents")
    for heading in ("calls", "runs", "violations", "bound / error", "error", "predicted by the KB"):
        table.add_column(heading, justify="right")
    for calls, found in block.items():
        table.add_row(
            calls,
            str(found["queries"]),
            str(found["violations"]),
            f"{found['tightness_median']:.1f}",
            f"{found['relative_error_median']:.4f}",
            f"{found['predicted_median']:.4f}",
        )
    return table


def _estimators_table(block: dict[str, Any]) -> Table:
    table = Table(title="Estimators: relative error of the final latents, at the middle value step")
    for heading in ("sampler", "estimator", "error", "bound / error", "violations"):
        table.add_column(
            heading, justify="left" if heading in ("sampler", "estimator") else "right"
        )
    for sampler, estimators in block.items():
        for estimator, rows in estimators.items():
            middle = list(rows.values())[len(rows) // 2]
            table.add_row(
                sampler,
                estimator,
                f"{middle['median_relative_error']:.4f}",
                f"{middle['certificate']['step_map']['tightness_median']:.2f}",
                str(sum(row["violations"] for row in rows.values())),
            )
    return table


def theory_job(config: TheoryRunConfig, console: Console) -> Path:
    """Run the study and write `results.json` beside the figures."""
    start, folder = time.time(), Path(config.run_dir)
    check_folder("run_dir", folder)
    losses = NO_LOSSES
    if config.model.kind == "analytic":
        mixture = MixtureModel(guidance_scale=config.guidance_scale)
        model: DiffusionModel = mixture
        queries, entries = split_prompts(mixture.prompts(), config.queries, config.theory.seed)
    else:
        model = NoiseForm(model_from(config.model, config.guidance_scale, ""))
        queries, entries = (  # a prompt that stands twice would be its own neighbour
            list(dict.fromkeys(prompts_from(config.data, kind, count).texts))
            for kind, count in (("query", config.queries), ("kb", config.entries))
        )
        scenes = config.data.name == "scenes"
        side = model.decode(torch.zeros(1, *model.latent_shape)).shape[-1]  # before any work
        losses = picture_losses(side, Evaluator.load(EMBEDDED_EVALUATOR) if scenes else None)
    block = run_study(
        model, config.samplers, queries, entries, config.theory, console.print, folder, losses
    )
    write_json(
        folder / "results.json",
        {
            "schema": 1,
            "provenance": {
                "git": git_revision(),
                "versions": versions(),
                "machine": machine(),
                "model": model.identity(),
                "seconds": time.time() - start,
            },
            "config": asdict(config),
            "points": [],
            "theory": block,
        },
    )
    table = Table(title="Certificate: error after the jump against its bound")
    for heading in ("sampler", "pairs", "violations", "largest actual / bound"):
        table.add_column(heading, justify="left" if heading == "sampler" else "right")
    for sampler, found in block["certificate"].items():
        table.add_row(
            sampler, str(found["pairs"]), str(found["violations"]), f"{found['max_ratio']:.3f}"
        )
    console.print(table)
    console.print(_estimators_table(block["estimators"]))
    if "corrected" in block:
        console.print(_corrected_table(block["corrected"]))
    console.print(f"Figures and numbers: {folder}")
    return folder
