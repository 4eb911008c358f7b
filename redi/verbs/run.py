"""The main job: build the knowledge base, evaluate all methods, leave a run directory."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from redi.config import Config
from redi.errors import UsageError, unknown
from redi.files import LOCK, locked_alone
from redi.knowledge_base import KnowledgeBase
from redi.methods.redi import ReDi
from redi.metrics.base import Metric
from redi.metrics.catalogue import metrics_from, wanted
from redi.reading import read_json
from redi.report.outputs import clear, complete
from redi.report.runs import RESULTS
from redi.report.table import print_table
from redi.verbs.assemble import check, model_from, noise_from, overlap_with, queries_from
from redi.verbs.entries import baselines, fitted_methods
from redi.verbs.identity import differences, run_identity, short
from redi.verbs.named_kb import named_kb

if TYPE_CHECKING:
    from redi.models.text_to_image import TextToImageModel

#: how launchers number the processes that run one command, as Lightning reads it
_RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")


def run_name(config: Config, setting: ReDi, identity: dict[str, Any]) -> str:
    """Folder name of a run: what people sweep, and a hash of everything."""
    return (
        f"{config.sampler.name}-n{config.sampling.steps}-k{setting.key_step}"
        f"-v{setting.value_step}-kb{config.kb.size}-{short(identity)}"
    )


def check_names(config: Config) -> None:
    """Refuse unknown metrics, baselines and recipes, and those that do not fit together."""
    wanted(config)
    check_baselines(config)
    fitted_methods(config)


def check_baselines(config: Config) -> None:
    """Refuse unknown baselines and those that would be the full run again."""
    for name in config.baselines:
        if name not in baselines():
            raise unknown(f"baselines has {name!r}, which", name, baselines())
        if name in ("switch", "content") and not config.data.late_style:
            raise UsageError(
                f"baselines has {name!r}, which is the full run again unless queries name their "
                "style late: use data.late_style=true or leave it out"
            )


def main_job(
    config: Config,
    run_dir: Path | None,
    may_build: bool,
    console: Console,
    alone: bool = True,
    parent: Path = Path("outputs/runs"),
) -> Path:
    """Run one point and return its directory.

    Without a `run_dir` it is below `parent`, named by what the run is. A finished point is shown
    again, not computed; what is missing beside its results is made. A point that is not `alone`
    leaves the plot to the summary of its sweep.
    """
    setting = check(config)
    check_names(config)
    if may_build and not _settled(config):  # what it holds is part of what the run is
        from redi.verbs.build_kb import build

        build(config, setting, _model(config), console.print)
    identity = run_identity(config)
    folder = run_dir or parent / run_name(config, setting, identity)
    if _rank():  # one of several processes that run this command
        if not _finished(folder, identity):
            _evaluate(config, setting, folder, may_build, console, identity, _parts(config))
        return folder
    if not _finished(folder, identity):
        console.print("Loading PyTorch and the model")
    # what model and metrics refuse comes before the folder is made
    parts = None if _finished(folder, identity) else _parts(config)
    with _claimed(folder):
        if _finished(folder, identity):
            console.print(f"Already finished, skipped: {folder}")
        else:
            clear(folder)
            parts = parts or _parts(config)
            _evaluate(config, setting, folder, may_build, console, identity, parts)
        run = complete(folder, config.logger, alone)
    print_table(run, console)
    console.print(f"Pictures, plot and numbers: {folder}")
    return folder


def _rank() -> int:
    return next((int(os.environ[name]) for name in _RANKS if os.environ.get(name)), 0)


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
    config: Config,
    setting: ReDi,
    folder: Path,
    may_build: bool,
    console: Console,
    identity: dict[str, Any],
    parts: tuple[TextToImageModel, Sequence[Metric], Sequence[str]],
) -> None:
    """Everything up to the results."""
    from redi.verbs.build_kb import build
    from redi.verbs.engine import progress_bar, trainer_from
    from redi.verbs.evaluate import Evaluate, query_loader, setup_of
    from redi.verbs.fit import fit_all
    from redi.verbs.hooks import Measure
    from redi.verbs.record import Recorder

    started = time.time()
    model, metrics, notes = parts
    measure = Measure(metrics)
    for note in notes:
        console.print(note, markup=False)
    fitted = fitted_methods(config)
    queries = queries_from(config.data)
    kb = build(config, setting, model, console.print, may_build)
    fit_all(fitted, setup_of(config, model, kb), noise_from(config), model, console.print)
    found = overlap_with(config, queries, kb.prompts, kb.noise_ids)
    found.require_unseen(config.data.allow_overlap)
    record = Recorder(config, folder, started, measure, identity, found)
    task = Evaluate(config, setting, queries, kb.root, config.report.sheet_rows, record)
    trainer = trainer_from(config.trainer, [progress_bar("evaluation"), measure])
    if trainer.world_size == 1:
        task.model = model
    console.print(found.sentence())
    trainer.test(task, query_loader(len(queries.texts), config.model.batch_size), verbose=False)


def _settled(config: Config) -> bool:
    """Whether no KB has to be made before a run can be told from others."""
    named = named_kb(config.kb)
    if named is None:
        return True
    try:
        return len(KnowledgeBase(named, config.kb.size, hashes=False)) > 0
    except UsageError:
        return False


def _parts(
    config: Config,
) -> tuple[TextToImageModel, Sequence[Metric], Sequence[str]]:
    """The model, the metrics, and what has to be said about these."""
    return _model(config), *metrics_from(config)


def _model(config: Config) -> TextToImageModel:
    sampling = config.sampling
    return model_from(config.model, sampling.guidance_scale, sampling.negative_prompt)


def _finished(folder: Path, identity: dict[str, Any]) -> bool:
    path = folder / RESULTS
    if not path.is_file():
        return False
    provenance = read_json(path, "the results").get("provenance", {})
    if provenance.get("config_hash") != short(identity):
        told = "; ".join(differences(identity, provenance.get("identity")))
        raise UsageError(
            f"run_dir={str(folder)!r} already holds another run ({told}): "
            "choose another run_dir or delete that one"
        )
    return True
