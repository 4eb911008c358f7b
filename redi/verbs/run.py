"""The main job: build the knowledge base, evaluate all methods, leave a run directory."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_only
from rich.console import Console

from redi.config import Config
from redi.errors import UsageError
from redi.files import LOCK, locked_alone
from redi.methods.redi import ReDi
from redi.metrics.catalogue import metrics_from, wanted
from redi.reading import read_json
from redi.report.outputs import clear, complete
from redi.report.runs import RESULTS
from redi.report.table import print_table
from redi.verbs.assemble import check, model_from, noise_from, queries_from
from redi.verbs.build_kb import build
from redi.verbs.engine import progress_bar, trainer_from
from redi.verbs.entries import baselines, fitted_methods
from redi.verbs.evaluate import Evaluate, query_loader, setup_of
from redi.verbs.fit import fit_all
from redi.verbs.hooks import Measure
from redi.verbs.provenance import config_hash
from redi.verbs.record import Recorder


def run_name(config: Config, setting: ReDi) -> str:
    """Folder name of a run: what people sweep, and a hash of everything."""
    return (
        f"{config.sampler.name}-n{config.sampling.steps}-k{setting.key_step}"
        f"-v{setting.value_step}-kb{config.kb.size}-{config_hash(asdict(config))}"
    )


def check_baselines(config: Config) -> None:
    """Refuse unknown baselines and those that would be the full run again."""
    for name in config.baselines:
        if name not in baselines():
            known = ", ".join(baselines())
            raise UsageError(f"baselines has {name!r}; use any of {known}")
        if name in ("switch", "content") and not config.data.late_style:
            raise UsageError(
                f"baselines has {name!r}, which is the full run again unless queries name their "
                "style late: use data.late_style=true or leave it out"
            )


def main_job(
    config: Config, run_dir: Path | None, may_build: bool, console: Console, alone: bool = True
) -> Path:
    """Run one point and return its directory.

    A finished point is shown again, not computed; what is missing beside its results is made. A
    point that is not `alone` leaves the plot to the summary of its sweep.
    """
    setting = check(config)
    folder = run_dir or Path("outputs/runs") / run_name(config, setting)
    check_baselines(config)
    wanted(config)
    if getattr(rank_zero_only, "rank", 0):  # one of several processes that run this command
        if not _finished(folder, config):
            _evaluate(config, setting, folder, may_build, console)
        return folder
    with _claimed(folder):
        if _finished(folder, config):
            console.print(f"Already finished, skipped: {folder}")
        else:
            clear(folder)
            _evaluate(config, setting, folder, may_build, console)
        run = complete(folder, config.logger, alone)
    print_table(run, console)
    console.print(f"Pictures, plot and numbers: {folder}")
    return folder


@contextmanager
def _claimed(folder: Path) -> Iterator[None]:
    """Keep other processes of this machine out of a run directory."""
    busy = (
        f"run_dir={str(folder)!r} is being written by another process: wait for it or choose "
        "another run_dir"
    )
    with locked_alone(folder / LOCK, busy):
        yield


def _evaluate(
    config: Config, setting: ReDi, folder: Path, may_build: bool, console: Console
) -> None:
    """Everything up to the results."""
    started = time.time()
    metrics, notes = metrics_from(config)
    measure = Measure(metrics)
    for note in notes:
        console.print(note, markup=False)
    fitted = fitted_methods(config)
    queries = queries_from(config.data)
    model = model_from(
        config.model, config.sampling.guidance_scale, config.sampling.negative_prompt
    )
    kb = build(config, setting, model, console.print, may_build)
    fit_all(fitted, setup_of(config, model, kb), noise_from(config), model, console.print)
    record = Recorder(config, folder, started, measure)
    task = Evaluate(config, setting, queries, kb.root, config.report.sheet_rows, record)
    trainer = trainer_from(config.trainer, [progress_bar("evaluation"), measure])
    if trainer.world_size == 1:
        task.model = model
    console.print(f"Evaluating {len(queries.texts)} queries that are not in the KB")
    trainer.test(task, query_loader(len(queries.texts), config.model.batch_size), verbose=False)


def _finished(folder: Path, config: Config) -> bool:
    path = folder / RESULTS
    if not path.is_file():
        return False
    found = read_json(path, "the results").get("provenance", {}).get("config_hash")
    if found != config_hash(asdict(config)):
        raise UsageError(
            f"run_dir={str(folder)!r} already holds another run (config hash {found}): "
            "choose another run_dir or delete that one"
        )
    return True
