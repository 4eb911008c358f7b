"""Random SIGKILLs over every long command: what is resumed equals what was never stopped.

    python experiments/robustness/kills.py [kills=200] [seed=0] [only=build,merge,sweep]

Each command runs twice undisturbed, with equal results. Then, again and again in a new folder, it
is killed at a random moment of that time, with all its processes, and started again until it ends.
Everything that it wrote has to be there and the same, but for times. One line is printed per kill;
a summary is written to kills.md beside this file.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from safetensors.torch import load_file

from redi.cli import main as command_line
from redi.errors import UsageError
from redi.files import write_durably

OPTIONS = {"kills": "200", "seed": "0", "only": "build,merge,run,sweep,fit,train"}
_SMALL = ["sampling.steps=6", "kb.key_step=2", "kb.value_steps=[3,4]", "retrieval.value_step=4",
          "kb.size=4", "kb.shard_size=2", "model.batch_size=2", "trainer.threads=1"]  # fmt: skip
_POINT = [*_SMALL, "kb.dir=kb", "data.num_queries=4",
          "metrics.hooks=[cost,fidelity]", "metrics.resamples=50", "baselines=[plain,jump]",
          "report.sheet_rows=2", "logger=none", "reference_root=reference"]  # fmt: skip
_TRAIN = ["stage=autoencoder", "run_dir=train", "autoencoder.steps=6", "autoencoder.batch_size=2",
          "autoencoder.warmup_steps=2", "autoencoder.steps_per_epoch=2", "quality_images=4",
          "precision=32-true", "trainer.threads=1"]  # fmt: skip
#: fields of results that say how long something took, where or when it ran, or what was at hand
_VARYING = re.compile(r"second|time|date|minute|speed|provenance|started|finished|memory|_ms$|cost")


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
    Command("train", ["train", *_TRAIN], (), "train"),
)  # fmt: skip


def start(line: list[str], folder: Path) -> int:
    """The number of a new process, leader of its group, that runs a command in `folder`."""
    child = os.fork()
    if child:
        return child
    os.setsid()
    os.chdir(folder)
    nothing = os.open(os.devnull, os.O_RDWR)
    said = os.open(folder.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream, target in ((0, nothing), (1, said), (2, said)):
        os.dup2(target, stream)
    sys.argv = ["redi", *line]
    code = 1
    try:
        command_line()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    finally:
        sys.stdout.flush()
        os._exit(code)


def finish(line: list[str], folder: Path) -> float:
    """Run a command to its end; the seconds that it took."""
    begun = time.perf_counter()
    _, status = os.waitpid(start(line, folder), 0)
    if status:
        told = folder.with_suffix(".log").read_text()[-2000:]
        raise AssertionError(f"redi {' '.join(line)} ended with {status}:\n{told}")
    return time.perf_counter() - begun


def kill(line: list[str], folder: Path, after: float) -> bool:
    """Start a command and kill it with its children; False where it had ended before."""
    child = start(line, folder)
    time.sleep(after)
    if os.waitpid(child, os.WNOHANG)[0]:
        return False
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return True


def content(folder: Path) -> dict[str, Any]:
    """What a folder holds, file by file, without what varies between equal runs."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_file() and not any(part.startswith(".") for part in Path(name).parts):
            found[name] = _kept(path)
    return found


def _kept(path: Path) -> Any:
    read = _READERS.get(path.suffix)
    if path.name.endswith(".ckpt") or path.suffix in (".png", ".html", ".yaml", ".csv", ".md"):
        return path.stat().st_size > 0  # drawn or written from the numbers compared here
    return path.read_bytes() if read is None else read(path)


def _numbers(path: Path) -> Any:
    return _steady(json.loads(path.read_text()))


def _steady(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _steady(v) for k, v in value.items() if not _VARYING.search(k)}
    return [_steady(item) for item in value] if isinstance(value, list) else value


def _table(path: Path) -> Any:
    return {k: v for k, v in pq.read_table(path).to_pydict().items() if not _VARYING.search(k)}


def _tensors(path: Path) -> Any:
    return {name: tensor.numpy().tobytes() for name, tensor in load_file(path).items()}


_READERS: dict[str, Callable[[Path], Any]] = {
    ".json": _numbers,
    ".parquet": _table,
    ".safetensors": _tensors,
}


def prepared(command: Command, folder: Path) -> Path:
    """A new folder in which a command can start."""
    folder.mkdir(parents=True)
    for line in command.before:
        finish(line, folder)
    return folder


def differing(one: dict[str, Any], two: dict[str, Any]) -> list[str]:
    """Names of files that only one side has, or that differ."""
    return sorted(n for n in one.keys() | two.keys() if one.get(n) != two.get(n))


def main(arguments: list[str]) -> None:
    """Kill, resume, compare; stops at the first difference and leaves its folder."""
    given = dict(OPTIONS)
    for argument in arguments:
        name, _, value = argument.partition("=")
        if name not in OPTIONS:
            raise UsageError(f"option {name!r} is unknown: use {', '.join(OPTIONS)}")
        given[name] = value
    chosen = [command for command in COMMANDS if command.name in given["only"].split(",")]
    rng, total = random.Random(int(given["seed"])), int(given["kills"])
    torch.set_num_threads(1)
    top = Path(tempfile.mkdtemp(prefix="redi-kills-"))
    ready: dict[str, Path] = {}
    whole: dict[str, dict[str, Any]] = {}
    lasting: dict[str, float] = {}
    for command in chosen:
        ready[command.name] = prepared(command, top / command.name / "prepared")
        for number in range(2):  # what is loaded first takes longer once
            folder = top / command.name / f"whole-{number}"
            shutil.copytree(ready[command.name], folder)
            lasting[command.name] = finish(command.line, folder)
            found = content(folder / command.resumed)
            if unlike := differing(whole.setdefault(command.name, found), found):
                raise AssertionError(f"{command.name} is not repeatable: {unlike} in {folder}")
        print(f"{command.name}: {lasting[command.name]:.1f} s undisturbed, "
              f"{len(whole[command.name])} files", flush=True)  # fmt: skip
    counts, tries = dict.fromkeys(ready, 0), 0
    while sum(counts.values()) < total:
        command = chosen[tries % len(chosen)]
        folder = top / command.name / str(tries)
        tries += 1
        shutil.copytree(ready[command.name], folder)
        moments = []
        while not moments or rng.random() < 0.3:  # some are killed again while they resume
            after = rng.random() * lasting[command.name]
            if not kill(command.line, folder, after):
                break
            moments.append(after)
        finish(command.line, folder)
        found = differing(whole[command.name], content(folder / command.resumed))
        if found:
            raise AssertionError(f"{command.name} killed at {moments}: {found} differ in {folder}")
        counts[command.name] += len(moments)
        at = " and ".join(f"{moment:.2f} s" for moment in moments) or "its end"
        print(f"{command.name}: killed after {at}, resumed, all files equal", flush=True)
        shutil.rmtree(folder)
    rows = [
        f"| {n} | {lasting[n]:.1f} | {len(whole[n])} | {count} | 0 |" for n, count in counts.items()
    ]
    text = "\n".join(
        [
            "# Kills",
            "",
            f"`python experiments/robustness/kills.py kills={total} seed={given['seed']}`: each "
            "command was killed at random moments, started again, and compared with a run that was "
            "never stopped.",
            "",
            "| command | seconds undisturbed | files compared | kills | differences |",
            "|---|---|---|---|---|",
            *rows,
            "",
        ]
    )
    write_durably(Path(__file__).with_name("kills.md"), lambda path: path.write_text(text))
    print(text)
    shutil.rmtree(top)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (UsageError, AssertionError) as error:
        sys.exit(f"kills: {error}")
