"""`redi calibrate`: errors of plain samplers beside published figures, and pictures judged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pyarrow.parquet as pq
import torch
from rich.console import Console

from redi.config import CalibrateConfig
from redi.embedded.calibration import blocks_of, calibrate, check, points
from redi.embedded.calibration_config import JudgedRun
from redi.embedded.judged import judge, judged_blocks, summary
from redi.files import write_durably, write_json
from redi.metrics.evaluator import EMBEDDED_EVALUATOR, Evaluator
from redi.models.text_to_image import TextToImageModel
from redi.verbs.assemble import model_from
from redi.verbs.folders import check_folder
from redi.verbs.provenance import git_revision, machine, versions

#: relative latent error of DPM-Solver++ 2M on Stable Diffusion by guidance and calls: the mean
#: squared errors of Zheng et al. (2023, DPM-Solver-v3) as sqrt(MSE / 0.93)
PUBLISHED = {
    1.5: {5: 0.29, 8: 0.17, 10: 0.13, 20: 0.08},
    7.5: {5: 0.80, 8: 0.73, 10: 0.70, 20: 0.57},
}


def calibrate_job(config: CalibrateConfig, console: Console) -> Path:
    """Measure what is missing; write `points.parquet`, a plot, `pictures.json`, `results.json`."""
    chosen, folder = config.calibration, Path(config.run_dir)
    check(chosen)
    check_folder("run_dir", folder)
    if config.threads:
        torch.set_num_threads(config.threads)
    base = model_from(config.model, chosen.guidance[0], "")
    total = len(blocks_of(chosen, base.batch_size)) + judged_blocks(chosen)

    def model_at(guidance: float) -> TextToImageModel:
        return TextToImageModel(
            base.pipeline, guidance, "", config.model.batch_size, config.model.size
        )

    finished = 0

    def done(name: str) -> None:
        nonlocal finished
        finished += 1
        console.print(f"{finished}/{total}: {name}", highlight=False)

    table = points(calibrate(model_at, chosen, folder, done))
    write_durably(folder / "points.parquet", lambda path: pq.write_table(table, path))
    if chosen.judged:
        evaluator = Evaluator.load(EMBEDDED_EVALUATOR, base.device)
        found = judge(model_at, evaluator, chosen, folder, done)
        pictures = summary(found, evaluator, chosen.judged)
        write_json(folder / "pictures.json", pictures)
        write_durably(folder / "pictures.png", lambda path: plot_pictures(pictures, path))
    rows = table.to_pylist()
    write_durably(folder / "points.png", lambda path: plot(rows, path))
    write_json(
        folder / "results.json",
        {
            "schema": 1,
            "model": base.identity(),
            "calibration": dict(vars(chosen)),
            "blocks": [finished, total],
            "git": git_revision(),
            "versions": versions(),
            "machine": machine(),
        },
    )
    console.print(f"{finished} of {total} blocks: {folder / 'points.parquet'}", highlight=False)
    return folder


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Error over calls: a panel per setting, a line per sampler, published figures as crosses."""
    captions = sorted({row["captions"] for row in rows}, reverse=True)
    scales = sorted({row["guidance"] for row in rows})
    figure, axes = plt.subplots(
        len(captions),
        len(scales),
        figsize=(3.2 * len(scales), 2.9 * len(captions)),
        sharex=True,
        sharey=True,
        squeeze=False,
    )
    for line, said in enumerate(captions):
        for column, scale in enumerate(scales):
            axis = axes[line][column]
            here = [r for r in rows if r["captions"] == said and r["guidance"] == scale]
            for name in dict.fromkeys(r["sampler"] for r in here if r["sampler"] != "converged"):
                mine = sorted((r for r in here if r["sampler"] == name), key=lambda r: r["calls"])
                calls = [r["calls"] for r in mine]
                axis.plot(
                    calls, [r["latent_error_converged"] for r in mine], marker=".", label=name
                )
                axis.fill_between(
                    calls, [r["low"] for r in mine], [r["high"] for r in mine], alpha=0.15
                )
            known = PUBLISHED.get(scale, {})
            if known:
                label = "Stable Diffusion, DPM-Solver++ 2M (published)"
                axis.plot(list(known), list(known.values()), "kx", label=label)
            axis.set(xscale="log", yscale="log", title=f"{said} captions, guidance {scale:g}")
            axis.grid(alpha=0.3)
    ticks = sorted({row["calls"] for row in rows if row["sampler"] != "converged"})
    for axis in axes[-1]:
        axis.set_xlabel("network calls")
        axis.set_xticks(ticks, [str(tick) for tick in ticks])
        axis.minorticks_off()
    for axis in axes[:, 0]:
        axis.set_ylabel("latent error to converged run")
    found = {
        label: handle
        for axis in axes.flat
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    figure.legend(found.values(), found.keys(), loc="lower center", ncols=4, fontsize=8)
    figure.tight_layout(rect=(0, 0.1, 1, 1))
    figure.savefig(path, dpi=110, format="png")
    plt.close(figure)


#: what a plot of judged pictures shows: column, title
_JUDGED = (
    ("all", "everything said is shown"),
    ("clip_score", "CLIP score"),
    ("fd_scene", "FD-scene"),
    ("kid_scene", "KID"),
    ("precision", "precision"),
    ("recall", "recall"),
)


def plot_pictures(rows: list[dict[str, Any]], path: Path) -> None:
    """Each metric over calls, a line per guidance scale; bands: the run with the most calls."""
    judged = [row for row in rows if "guidance" in row and "minus" not in row["run"]]
    figure, axes = plt.subplots(2, 3, figsize=(9.6, 5.6), sharex=True)
    for axis, (name, title) in zip(axes.flat, _JUDGED, strict=True):
        for colour, scale in enumerate(dict.fromkeys(row["guidance"] for row in judged)):
            told = [
                (run.calls, _with_interval(row[name]))
                for row in judged
                if row["guidance"] == scale and (run := JudgedRun.parse(row["run"]))
                if not run.floor and row[name] is not None
            ]
            told.sort()
            calls = [at for at, _ in told]
            middle, low, high = zip(*(values for _, values in told), strict=True)
            errors = [np.subtract(middle, low), np.subtract(high, middle)]
            axis.errorbar(
                calls, middle, errors, marker=".", color=f"C{colour}", label=f"guidance {scale:g}"
            )
            axis.axhspan(low[-1], high[-1], color=f"C{colour}", alpha=0.12)
        if name in rows[0]:  # two halves of the real scenes
            axis.axhline(_with_interval(rows[0][name])[0], color="k", ls=":", label="real scenes")
        axis.set(title=title, xscale="log")
        axis.grid(alpha=0.3)
    ticks = sorted({run.calls for row in judged if (run := JudgedRun.parse(row["run"]))})
    for axis in axes[-1]:
        axis.set_xlabel("network calls")
        axis.set_xticks(ticks, [str(tick) for tick in ticks])
        axis.minorticks_off()
    handles, labels = axes[0, 2].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=len(labels), fontsize=8)
    figure.tight_layout(rect=(0, 0.05, 1, 1))
    figure.savefig(path, dpi=110, format="png")
    plt.close(figure)


def _with_interval(value: Any) -> tuple[float, float, float]:
    if isinstance(value, dict):
        return value["mean"], value["low"], value["high"]
    return value, value, value
