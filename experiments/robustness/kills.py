"""Random SIGKILLs over every long command: what is resumed equals what was never stopped.

    python experiments/robustness/kills.py [kills=200] [seed=0] [only=build,merge,sweep] [folder=F]

Each command runs twice undisturbed, with equal results. Then, again and again in a new folder, it
is killed at a random moment of that time, with all its processes, and started again until it ends.
Everything that it wrote has to be there and the same, but for times. One line is printed per try,
and kept in `folder` (default: a temporary one); started again, the script goes on from there.
A summary is written to kills.md beside this file.
"""

from __future__ import annotations

import json
import random
import shutil
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from compared import content, differing
from forks import finish, kill

from redi.embedded.diffusion import TrainDiffusion
from redi.embedded.evaluator import TrainEvaluator
from redi.errors import UsageError
from redi.files import write_durably
from redi.verbs.provenance import git_revision

OPTIONS = {
    "kills": "200",
    "seed": "0",
    "only": "build,merge,run,sweep,fit,train",
    "folder": "",
}
_SMALL = ["sampling.steps=4", "kb.key_step=1", "kb.value_steps=[2,3]", "retrieval.value_step=3",
          "kb.size=4", "kb.shard_size=2", "model.batch_size=2", "trainer.threads=1"]  # fmt: skip
_POINT = [*_SMALL, "kb.dir=kb", "data.num_queries=4",
          "metrics.hooks=[cost,fidelity]", "metrics.resamples=50", "baselines=[plain,jump]",
          "report.sheet_rows=2", "logger=none", "reference_root=reference"]  # fmt: skip
_STAGE = {"steps": 3, "batch_size": 2, "warmup_steps": 1, "decay_steps": 1, "pool": 4,
          "save_every": 2}  # fmt: skip
_TRAIN = ["run_dir=train", "export_dir=export", "quality_images=4", "precision=float32",
          "threads=1", "workers=0",
          *(f"{stage}.{key}={value}" for stage in ("autoencoder", "diffusion", "evaluator")
            for key, value in _STAGE.items())]  # fmt: skip


@dataclass(frozen=True)
class Command:
    """A command of redi; `before` runs undisturbed, `resumed` is compared."""

    name: str
    line: list[str]
    before: tuple[list[str], ...] = ()
    resumed: str = "."


COMMANDS = (
    Command("build", ["kb", "build", *_SMALL, "kb.size=8", "kb.dir=kb"], (), "kb"),
    Command(
        "merge",
        ["kb", "merge", "all", "a", "b"],
        (
            ["kb", "build", *_SMALL, "kb.dir=a"],
            ["kb", "build", *_SMALL, "kb.first=4", "kb.dir=b"],
        ),
        "all",
    ),
    Command("run", ["run", *_POINT, "run_dir=run"]),
    Command("sweep", ["-m", *_POINT, "retrieval.neighbours=1,2", "run_dir=sweep"]),
    Command(
        "fit",
        ["run", *_POINT, "correction.calls=[2]", "correction.trials=4", "correction.folds=2",
         "correction.levels=[even]", "correction.against=[ddim]", "run_dir=run"],
        (["kb", "build", *_POINT, "correction.calls=[2]", "correction.levels=[even]"],),
    ),
    Command("train", ["train", *_TRAIN]),
)  # fmt: skip


@dataclass(frozen=True)
class Undisturbed:
    """A command that nobody stopped: the folder it starts in, its seconds, what it wrote."""

    prepared: Path
    seconds: float
    content: dict[str, Any]


def undisturbed(command: Command, top: Path) -> Undisturbed:
    """Run a command twice to its end; the results have to be equal."""
    shutil.rmtree(top, ignore_errors=True)
    prepared = top / "prepared"
    prepared.mkdir(parents=True)
    for line in command.before:
        finish(line, prepared)
    runs = []
    for number in range(2):  # what is imported first takes longer once
        folder = top / f"whole-{number}"
        shutil.copytree(prepared, folder)
        seconds = finish(command.line, folder)
        runs.append(content(folder / command.resumed))
    if unlike := differing(*runs):
        raise AssertionError(f"{command.name} is not repeatable: {unlike} in {top}")
    print(f"{command.name}: {seconds:.1f} s undisturbed, {len(runs[0])} files", flush=True)
    return Undisturbed(prepared, seconds, runs[0])


def attempt(
    command: Command, whole: Undisturbed, folder: Path, rng: random.Random
) -> tuple[list[float], list[str]]:
    """Kill a command, some also while they resume, and compare.

    Gives the seconds after which it was killed and the names of files that differ.
    """
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(whole.prepared, folder)
    moments: list[float] = []
    while not moments or rng.random() < 0.3:
        after = rng.random() * whole.seconds
        if not kill(command.line, folder, after):
            break
        moments.append(round(after, 3))
    finish(command.line, folder)
    found = differing(whole.content, content(folder / command.resumed))
    if not found:
        shutil.rmtree(folder)
    return moments, found


def main(arguments: list[str]) -> None:
    """Kill, resume, compare; stops at the first difference and leaves its folder."""
    given = dict(OPTIONS)
    for argument in arguments:
        name, _, value = argument.partition("=")
        if name not in OPTIONS:
            raise UsageError(f"option {name!r} is unknown: use {', '.join(OPTIONS)}")
        given[name] = value
    chosen = [command for command in COMMANDS if command.name in given["only"].split(",")]
    torch.set_num_threads(1)
    for stage in (TrainDiffusion, TrainEvaluator):  # sampling for sheets takes most of a training
        stage.sheet = lambda _: np.zeros((8, 8, 3), np.uint8)  # type: ignore[method-assign]
    top = Path(given["folder"] or tempfile.mkdtemp(prefix="redi-kills-")).absolute()
    top.mkdir(parents=True, exist_ok=True)
    log, revision = top / "tries.jsonl", git_revision()
    told = log.read_text().splitlines() if log.is_file() else []
    tries = [json.loads(line) for line in told]
    whole = {command.name: undisturbed(command, top / command.name) for command in chosen}
    while sum(len(t["moments"]) for t in tries) < int(given["kills"]):
        number = len(tries)
        command = chosen[number % len(chosen)]
        rng = random.Random(f"{given['seed']} {number}")
        folder = top / command.name / str(number)
        moments, found = attempt(command, whole[command.name], folder, rng)
        one = {"command": command.name, "moments": moments, "differ": found, "revision": revision}
        tries.append(one)
        with log.open("a") as file:
            file.write(json.dumps(one) + "\n")
        if found:
            raise AssertionError(f"{command.name} killed at {moments}: {found} differ in {folder}")
        at = " and ".join(f"{moment:.2f} s" for moment in moments) or "its end"
        print(f"{number} {command.name}: killed after {at}, all files equal", flush=True)
    write_summary(whole, tries, given["seed"])


def write_summary(whole: dict[str, Undisturbed], tries: list[dict[str, Any]], seed: str) -> None:
    """kills.md: a line per command, and every difference that was found."""
    kills, again, at = Counter[str](), Counter[str](), Counter[str]()
    for one in tries:
        kills[one["command"]] += len(one["moments"])
        again[one["command"]] += len(one["moments"]) > 1
        at[_named(one["revision"])] += len(one["moments"])
    rows = [
        f"| {name} | {run.seconds:.1f} | {len(run.content)} | {kills[name]} | {again[name]} |"
        for name, run in whole.items()
    ]
    found = [
        f"* {one['command']} at revision {_named(one['revision'])}, killed after "
        f"{' and '.join(f'{moment:.2f}' for moment in one['moments'])} s: "
        f"{', '.join(one['differ'])}"
        for one in tries
        if one["differ"]
    ]
    revisions = " and ".join(f"{name} ({count} kills)" for name, count in at.items())
    text = f"""\
# Kills

`python experiments/robustness/kills.py kills={sum(kills.values())} seed={seed}` at revision
{revisions}: each command was killed (SIGKILL, with its children) at random moments, started again,
and compared file by file with a run that was never stopped. Commands run in forks of a process that
has imported everything, so that the moments fall into their work. Seconds are not compared,
pictures and pages only in that they are there.

| command | seconds undisturbed | files compared | kills | tries killed again while resuming |
|---|---:|---:|---:|---:|
{chr(10).join(rows)}

Tries that ended differently: {len(found)}.
{chr(10).join(found)}
"""
    write_durably(Path(__file__).with_name("kills.md"), lambda path: path.write_text(text))
    print(text)


def _named(revision: dict[str, Any]) -> str:
    changed = " with changes" if revision.get("changed") else ""
    return f"{revision.get('revision', 'unknown')[:7]}{changed}"


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (UsageError, AssertionError) as error:
        sys.exit(f"kills: {error}")
