"""The main job: build the knowledge base, evaluate all methods, leave a run directory."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from omegaconf import OmegaConf
from rich.console import Console

from redi.config import Config
from redi.data.pixels import to_pixels
from redi.errors import UsageError
from redi.files import read_json, write_durably, write_json
from redi.inference import JUMPS, Setting
from redi.metrics.base import Fields
from redi.metrics.catalogue import metrics_from
from redi.metrics.intervals import Estimate, paired_difference
from redi.report.labels import METHODS as METHOD_LABELS
from redi.report.loggers import Example, log_point
from redi.report.pareto import pareto_plot
from redi.report.results import load_results
from redi.report.sheets import SheetRow, sheet
from redi.report.table import markdown_table, print_table
from redi.verbs.assemble import (
    check,
    model_from,
    queries_from,
)
from redi.verbs.build_kb import build
from redi.verbs.engine import progress_bar, trainer_from
from redi.verbs.evaluate import METHODS, Evaluate, query_loader
from redi.verbs.fit_corrections import fit_all, recipe_from
from redi.verbs.hooks import Measure
from redi.verbs.provenance import config_hash, git_revision, machine, versions

#: what a query's noise is to the KB, by policy
NOISES = {"shared": "shared", "bank": "bank", "per_prompt": "unseen"}


def run_name(config: Config, setting: Setting) -> str:
    """Folder name of a run: what people sweep, and a hash of everything."""
    return (
        f"{config.sampler.name}-n{config.sampling.steps}-k{setting.key_step}"
        f"-v{setting.value_step}-kb{config.kb.size}-{config_hash(asdict(config))}"
    )


def check_baselines(config: Config) -> None:
    """Refuse unknown baselines and those that would be the full run again."""
    for name in config.baselines:
        if name not in METHODS or name in ("full", "redi"):
            known = ", ".join(m for m in METHODS if m not in ("full", "redi"))
            raise UsageError(f"baselines has {name!r}; use any of {known}")
        if name in ("switch", "content") and not config.data.late_style:
            raise UsageError(
                f"baselines has {name!r}, which is the full run again unless queries name their "
                "style late: use data.late_style=true or leave it out"
            )


def flat(fields: Fields) -> dict[str, float]:
    """Numbers by name, intervals as `<name>_low` and `<name>_high`."""
    found: dict[str, float] = {}
    for name, value in fields.items():
        if isinstance(value, Estimate):
            found |= {name: value.mean, f"{name}_low": value.low, f"{name}_high": value.high}
        else:
            found[name] = value
    return found


class RunWriter:
    """Writes the files of a run; `results.json` comes last and makes the run finished."""

    def __init__(
        self, config: Config, setting: Setting, run_dir: Path, started: float, measure: Measure
    ) -> None:
        self.config, self.setting, self.run_dir = config, setting, run_dir
        self.started, self.measure = started, measure

    def __call__(self, module: Evaluate) -> None:
        table, config = module.table, self.config
        names = [name for name in METHODS if name in table.rows]
        names += [name for name in table.rows if name not in names]
        points = [self._point(module, name) for name in names]
        write_durably(self.run_dir / "per_image.parquet", lambda p: self._parquet(module, p))
        if config.report.sheet_rows:
            self._sheet(module, self.run_dir / "sheet.png")
        write_durably(
            self.run_dir / "config.yaml", lambda p: p.write_text(OmegaConf.to_yaml(config))
        )
        kb = module.redi.kb
        write_json(
            self.run_dir / "results.json",
            {
                "schema": 1,
                "provenance": {
                    "config_hash": config_hash(asdict(config)),
                    "git": git_revision(),
                    "versions": versions(),
                    "machine": machine(),
                    "model_hash": kb.manifest.identity["model_hash"],
                    "kb_hash": kb.content_hash,
                    "kb_entries": len(kb),
                    "kb_bytes_per_entry": kb.disk_bytes / (len(kb.shards) * kb.manifest.shard_size),
                    "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                    "seconds": round(time.time() - self.started, 1),
                    "reference_batches": {
                        "computed": module.reference.computed,
                        "read": module.reference.read,
                    },
                },
                "config": asdict(config),
                "reference": {"evaluator_accuracy": self.measure.accuracies},
                "points": points,
            },
        )
        results = load_results(self.run_dir)
        log_point(
            config.logger, self.run_dir, results, self._examples(module), markdown_table(results)
        )

    def _examples(self, module: Evaluate) -> list[Example]:
        found = []
        for index in sorted(module.pictures.get("full", {})):
            images = {m: to_pixels(module.pictures[m][index]) for m in module.pictures}
            distance = module.table.rows["redi"][index].get("key_distance")
            told = None if distance is None else float(distance)
            found.append(Example(module.queries.texts[index], images, told))
        return found

    def _point(self, module: Evaluate, method: str) -> dict[str, Any]:
        config, setting, table = self.config, self.setting, module.table
        jumps = method in JUMPS
        retrieves = jumps and method != "jump"
        steps = config.sampling.steps
        if method == "plain" and module.plain is not None:
            steps = module.plain.num_steps
        fields: dict[str, Any] = {
            "method": method,
            "sampler": config.sampler.name,
            "steps": steps,
            "key_step": setting.key_step if jumps else None,
            "value_step": setting.value_step if jumps and method != "neighbour" else None,
            "kb_size": config.kb.size if retrieves else None,
            "neighbours": setting.neighbours if retrieves else None,
            "estimator": setting.estimator if retrieves and method != "neighbour" else None,
            "resume": setting.resume if jumps and method != "neighbour" else None,
            "noise_policy": config.noise.policy,
            "noise": NOISES[config.noise.policy],
            "guidance_scale": config.sampling.guidance_scale,
            "seed": config.seed,
            "count": len(table.rows[method]),
        }
        if method not in METHODS:
            nothing = ("key_step", "value_step", "kb_size", "neighbours", "estimator", "resume")
            fields |= dict.fromkeys(nothing) | module.corrected.fields(method)
        fields |= flat(self.measure.summarise(table, method))
        if method not in METHODS:
            fields |= module.corrected.verdict(method, table.column(method, "latent_error"))
        if method == "redi" and "plain" in table.rows:
            mine, theirs = (table.by_prompt(name, "psnr") for name in ("redi", "plain"))
            if mine is not None and theirs is not None:
                gain = paired_difference(mine, theirs, resamples=config.metrics.resamples)
                fields["psnr_over_plain"] = gain.mean
                fields["psnr_over_plain_low"] = gain.low
                fields["psnr_over_plain_high"] = gain.high
        return fields

    def _parquet(self, module: Evaluate, path: Path) -> None:
        rows = []
        for method, by_index in module.table.rows.items():
            for index in sorted(by_index):
                scalars = {n: v for n, v in by_index[index].items() if np.ndim(v) == 0}
                row = {
                    "method": method,
                    "query": index // module.table.repeats,
                    "noise": index % module.table.repeats,
                    "prompt": module.queries.texts[index],
                }
                neighbour = scalars.pop("neighbour_row", None)
                if neighbour is not None:
                    row["neighbour"] = int(neighbour)
                    row["neighbour_prompt"] = module.redi.kb.prompts[int(neighbour)]
                rows.append(row | {name: float(value) for name, value in scalars.items()})
        columns = dict.fromkeys(name for row in rows for name in row)
        pq.write_table(pa.table({c: [row.get(c) for row in rows] for c in columns}), path)

    def _sheet(self, module: Evaluate, path: Path) -> None:
        kinds = ("content", "full", "switch", "redi", "plain", "neighbour")
        shown = module.corrected.shown(module.table)
        columns: list[str] = [method for method in kinds if method in module.pictures] + [*shown]
        rows = []
        for index in sorted(module.pictures["full"]):
            notes = {}
            for method in columns:
                cells = module.table.rows[method][index]
                notes[method] = f"{cells['psnr']:.1f} dB" if "psnr" in cells else ""
            if "neighbour" in columns:
                row = module.table.rows["neighbour"][index].get("neighbour_row")
                notes["neighbour"] = "" if row is None else module.redi.kb.prompts[int(row)]
            images = {method: to_pixels(module.pictures[method][index]) for method in columns}
            rows.append(SheetRow(module.queries.texts[index], images, notes))
        sheet(rows, path, columns, {**METHOD_LABELS, **shown})


def main_job(
    config: Config, run_dir: Path | None, may_build: bool, console: Console, alone: bool = True
) -> Path:
    """Run one point and return its directory; a finished point is shown again, not computed.

    A point that is not `alone` leaves the plot to the summary of its sweep.
    """
    setting = check(config)
    folder = run_dir or Path("outputs/runs") / run_name(config, setting)
    if _finished(folder, config):
        console.print(f"Already finished, skipped: {folder}")
        _show(folder, console)
        return folder
    check_baselines(config)
    started = time.time()
    metrics, notes = metrics_from(config)
    measure = Measure(metrics)
    for note in notes:
        console.print(note, markup=False)
    recipe_from(config)
    queries = queries_from(config.data)
    model = model_from(
        config.model, config.sampling.guidance_scale, config.sampling.negative_prompt
    )
    kb = build(config, setting, model, console.print, may_build)
    fit_all(config, kb, model, console.print)
    shown = config.report.sheet_rows
    writer = RunWriter(config, setting, folder, started, measure)
    task = Evaluate(config, setting, queries, kb.root, shown, writer)
    trainer = trainer_from(config.trainer, [progress_bar("evaluation"), measure])
    if trainer.world_size == 1:
        task.model = model
    console.print(f"Evaluating {len(queries.texts)} queries that are not in the KB")
    loader = query_loader(len(queries.texts), config.model.batch_size)
    trainer.test(task, loader, verbose=False)
    results = load_results(folder)
    if alone:
        pareto_plot([results], folder / "pareto.png")
    write_durably(folder / "table.md", lambda p: p.write_text(markdown_table(results)))
    _show(folder, console)
    return folder


def _show(folder: Path, console: Console) -> None:
    print_table(load_results(folder), console)
    console.print(f"Pictures, plot and numbers: {folder}")


def _finished(folder: Path, config: Config) -> bool:
    path = folder / "results.json"
    if not path.is_file():
        return False
    found = read_json(path, "the results").get("provenance", {}).get("config_hash")
    if found != config_hash(asdict(config)):
        raise UsageError(
            f"run_dir={str(folder)!r} already holds another run (config hash {found}): "
            "choose another run_dir or delete that one"
        )
    return True
