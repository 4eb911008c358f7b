"""Every point at which a writer of a knowledge base can be stopped, and what is left then.

    python experiments/store/faults.py            # prints the list and writes faults.md

Every change to the disk goes through one of seven functions of `redi.files`. Each scenario is run
once to list its calls. Then, for each call, a child process is killed there (SIGKILL; in a write
also half-way), and for each kind of disk error the call fails with it. After each fault the store
must verify, hold all that was committed before, show whole shards only, and be made complete by the
same command again.
"""

from __future__ import annotations

import errno
import os
import re
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from redi import files
from redi.errors import UsageError
from redi.knowledge_base import (
    Choice,
    Column,
    Entry,
    KnowledgeBase,
    Manifest,
    Writer,
    all_shards,
    copy_kb,
    merge,
    subset,
    verify,
)
from redi.retrieval.opening import open_search

CALLS = ("make_folder", "write", "sync", "replace", "link", "sync_folder", "remove")
ERRORS = {
    "disk full": (errno.ENOSPC, ("make_folder", "write", "sync", "replace", "link")),
    "read-only": (errno.EROFS, ("make_folder", "write", "replace", "link")),
    "no permission": (errno.EACCES, ("make_folder", "replace", "link")),
}
SIZE = 4
MANIFEST = Manifest(
    {"key_step": 1},
    (Column("step_0001", "latents", (2, 2, 2)), Column("step_0009", "latents", (2, 2, 2), "int8")),
    SIZE,
)

Point = tuple[str, str, int]  # function, file, how often before


def fill(root: Path, shards: range) -> None:
    """Write shards whose content is a function of their number."""
    writer = Writer(root, MANIFEST, {})
    for shard in writer.missing(SIZE * len(shards), SIZE * shards.start):
        rng = np.random.default_rng(shard)
        arrays = {
            (c.group, c.name): rng.normal(size=(SIZE, *c.shape)).astype("f4")
            for c in MANIFEST.columns
        }
        rows = range(SIZE * shard, SIZE * (shard + 1))
        writer.write(shard, arrays, [Entry(i, f"prompt {i}", 0) for i in rows])


@dataclass(frozen=True)
class Scenario:
    """`prepare` what is there before, `act` on it; `changed` is the folder that is written to."""

    name: str
    prepare: Callable[[Path], None]
    act: Callable[[Path], object]
    changed: str


def _parts(root: Path) -> None:
    fill(root / "a", range(0, 1))
    fill(root / "b", range(1, 2))


def _index(root: Path) -> None:
    kb = KnowledgeBase(root / "a")
    zeros = np.zeros(len(kb), int)
    open_search(kb, "step_0001", "latents", zeros, "pca", True, lambda _: None)


def _subset(root: Path) -> None:
    kb = KnowledgeBase(root / "a")
    subset(kb, root / "s", Choice(size=6, seed=0).rows(kb))


SCENARIOS = (
    Scenario("create", lambda root: None, lambda root: fill(root / "a", range(1)), "a"),
    Scenario(
        "append",
        lambda root: fill(root / "a", range(1)),
        lambda root: fill(root / "a", range(2)),
        "a",
    ),
    Scenario("merge", _parts, lambda root: merge(root / "a", [root / "b"]), "a"),
    Scenario("subset", lambda root: fill(root / "a", range(2)), _subset, "s"),
    Scenario(
        "export or import",
        lambda root: fill(root / "a", range(1)),
        lambda root: copy_kb(root / "a", root / "c"),
        "c",
    ),
    Scenario("index build", lambda root: fill(root / "a", range(1)), _index, "a"),
)


def plain(path: Path) -> str:
    """A file's name without hashes."""
    name = re.sub(r"-[0-9a-f]{12}(?=\.)", "", path.name)
    name = re.sub(r"^\.partial-.*?-\d+-\d+-", "temporary ", name)
    return f"{path.parent.name}/{name}"


@contextmanager
def intercepted(at: Callable[[Point, tuple], None]) -> Iterator[None]:
    """Call `at` before every change to the disk; syncing itself is left out."""
    seen: Counter[tuple[str, str]] = Counter()
    real = {name: getattr(files, name) for name in CALLS}

    def wrapped(name: str) -> Callable[..., None]:
        def call(*arguments: object) -> None:
            paths = [argument for argument in arguments if isinstance(argument, Path)]
            key = (name, plain(paths[-1]))
            seen[key] += 1
            at((*key, seen[key] - 1), arguments)
            if not name.startswith("sync"):
                real[name](*arguments)

        return call

    try:
        for name in CALLS:
            setattr(files, name, wrapped(name))
        yield
    finally:
        for name in CALLS:
            setattr(files, name, real[name])


def points(scenario: Scenario, root: Path) -> list[Point]:
    """All calls of a scenario."""
    found: list[Point] = []
    scenario.prepare(root)
    with intercepted(lambda point, _: found.append(point)):
        scenario.act(root)
    return found


def killed(scenario: Scenario, root: Path, point: Point, half: bool) -> None:
    """Run a scenario in a child that is killed at a point, or half-way through its write."""
    child = os.fork()
    if child == 0:

        def at(here: Point, arguments: tuple) -> None:
            if here == point:
                if half:
                    os.write(arguments[0], bytes(arguments[1])[: len(arguments[1]) // 2])
                os.kill(os.getpid(), signal.SIGKILL)

        try:
            with intercepted(at):
                scenario.act(root)
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    if not os.WIFSIGNALED(status):
        raise AssertionError(f"{scenario.name} never came to {point}")


def failed(scenario: Scenario, root: Path, point: Point, number: int) -> str:
    """Run a scenario in which one call fails; the sentence that the user reads."""

    def at(here: Point, _: tuple) -> None:
        if here == point:
            raise OSError(number, os.strerror(number))

    with intercepted(at):
        try:
            scenario.act(root)
        except UsageError as error:
            return str(error)
    return ""


def content(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def state(root: Path) -> int:
    """Whole trajectories that can be read; raises if anything committed is damaged."""
    if not (root / "manifest.json").is_file():
        return 0
    shards = all_shards(root)
    verify(root, shards)
    manifest = Manifest.read(root)
    if not shards or manifest.origin is not None:
        return SIZE * len(shards)
    kb = KnowledgeBase(root)
    for shard in kb.shards:
        rng = np.random.default_rng(shard)
        expected = rng.normal(size=(SIZE, 2, 2, 2)).astype("f4")
        first = shard * SIZE
        assert np.array_equal(kb.column("step_0001", "latents", first, first + SIZE), expected)
    return len(kb)


def outcome(scenario: Scenario, folder: Path, fault: str, point: Point, whole: dict) -> str:
    """Put one fault at one point; what was left, checked."""
    scenario.prepare(folder)
    before = content(folder)
    said = ""
    if fault.startswith("SIGKILL"):
        killed(scenario, folder, point, half="half" in fault)
    else:
        said = failed(scenario, folder, point, ERRORS[fault][0])
    for name, data in before.items():
        assert (folder / name).read_bytes() == data, f"{name} was committed and has changed"
    readable = state(folder / scenario.changed)
    scenario.act(folder)
    after = content(folder)
    assert after == whole, sorted(set(after) ^ set(whole))
    told = "killed" if fault.startswith("SIGKILL") else "one sentence" if said else "went on"
    return f"{told}; {readable} trajectories readable; complete after the same command"


def run(scenario: Scenario, kinds: tuple[str, ...]) -> list[tuple[str, Point, str]]:
    """All faults of the given kinds at all points of a scenario."""
    rows = []
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as t:
        top = Path(t)
        found = points(scenario, top / "0" / "kb")
        whole, number = content(top / "0" / "kb"), 0
        for point in found:
            faults = ["SIGKILL"] if "SIGKILL" in kinds else []
            if "SIGKILL" in kinds and point[0] == "write":
                faults.append("SIGKILL half-way")
            faults += [n for n, (_, calls) in ERRORS.items() if n in kinds and point[0] in calls]
            for fault in faults:
                number += 1
                rows.append(
                    (fault, point, outcome(scenario, top / str(number) / "kb", fault, point, whole))
                )
    return rows


def main() -> None:
    """Print every fault point with its outcome, and write them as Markdown."""
    lines = ["| scenario | call | file | fault | outcome |", "|---|---|---|---|---|"]
    total = 0
    for scenario in SCENARIOS:
        rows = run(scenario, ("SIGKILL", *ERRORS))
        total += len(rows)
        print(f"{scenario.name}: {len(rows)} faults, all as they must be", flush=True)
        lines += [
            f"| {scenario.name} | {p[0]} | {p[1]} | {fault} | {result} |"
            for fault, p, result in rows
        ]
    text = f"# Fault points\n\n{__doc__}\n{total} faults, none with another outcome.\n\n"
    path = Path(__file__).with_name("faults.md")
    files.write_durably(path, lambda t: t.write_text(text + "\n".join(lines) + "\n"))
    print(f"{total} faults: {path}")


if __name__ == "__main__":
    sys.exit(main())
