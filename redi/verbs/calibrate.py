"""`redi calibrate`: the error of plain samplers, as a table and a plot beside published figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pyarrow.parquet as pq
import torch
from rich.console import Console

from redi.config import CalibrateConfig
from redi.embedded.calibration import blocks_of, calibrate, check, points
from redi.embedded.judged import judge, judged_blocks, summary
from redi.files import write_durably, write_json
from redi.metrics.evaluator import EMBEDDED_EVALUATOR, Evaluator
from redi.models.text_to_image import TextToImageModel
from redi.verbs.assemble import model_from
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
