"""Faults: killed or failing at every point, used from two sides, in any order of operations."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from redi.errors import UsageError
from redi.knowledge_base import Choice, KnowledgeBase, Manifest, Writer, all_shards, merge, subset

_PATH = Path(__file__).parent.parent / "experiments" / "store" / "faults.py"
_SPEC = importlib.util.spec_from_file_location("faults", _PATH)
assert _SPEC is not None and _SPEC.loader is not None
faults = importlib.util.module_from_spec(_SPEC)
sys.modules["faults"] = faults  # dataclasses look their module up
_SPEC.loader.exec_module(faults)


@pytest.mark.parametrize("scenario", faults.SCENARIOS, ids=lambda s: s.name)
def test_a_kill_at_every_point_loses_nothing(scenario: object) -> None:
    rows = faults.run(scenario, ("SIGKILL",))
    assert len(rows) > 8 and all("complete after" in row[2] for row in rows)


@pytest.mark.parametrize("scenario", faults.SCENARIOS[1:3], ids=lambda s: s.name)
def test_an_error_at_every_point_is_one_sentence(scenario: object) -> None:
    rows = faults.run(scenario, tuple(faults.ERRORS))
    assert len(rows) > 20 and all(row[2].startswith("one sentence") for row in rows)


def test_readers_see_whole_shards_during_an_append(tmp_path: Path) -> None:
    faults.fill(tmp_path, range(1))
    child = os.fork()
    if child == 0:
        for end in range(2, 12):
            faults.fill(tmp_path, range(end))
        os._exit(0)
    counts, opened = set(), []
    while not os.waitpid(child, os.WNOHANG)[0]:
        opened.append(KnowledgeBase(tmp_path))
        counts.add(faults.state(tmp_path))
    assert faults.state(tmp_path) == 11 * faults.SIZE and all(n % faults.SIZE == 0 for n in counts)
    for kb in opened:  # a snapshot stays readable while the KB grows
        assert len(kb.column("step_0009", "latents")) == len(kb.prompts) == len(kb)


def test_two_processes_on_the_same_range_make_one_kb(tmp_path: Path) -> None:
    faults.fill(tmp_path / "alone", range(8))
    children = []
    for _ in range(2):
        child = os.fork()
        if child == 0:
            faults.fill(tmp_path / "both", range(8))
            os._exit(0)
        children.append(child)
    assert all(os.waitpid(child, 0)[1] == 0 for child in children)
    assert faults.content(tmp_path / "both") == faults.content(tmp_path / "alone")


class Stopped(BaseException):
    """Stands for the end of the process: nothing after it reaches the disk."""


class Stores(RuleBasedStateMachine):
    """Three folders; `expected` is the set of committed shards of each."""

    folders = st.sampled_from(["a", "b", "c"])

    def __init__(self) -> None:
        super().__init__()
        import tempfile

        self.temporary = tempfile.TemporaryDirectory()
        self.root = Path(self.temporary.name)
        self.expected: dict[str, set[int]] = {"a": set(), "b": set(), "c": set()}

    def teardown(self) -> None:
        self.temporary.cleanup()

    @rule(name=folders, first=st.integers(0, 4), count=st.integers(1, 2))
    def append(self, name: str, first: int, count: int) -> None:
        faults.fill(self.root / name, range(first, first + count))
        self.expected[name] |= set(range(first, first + count))

    @rule(name=folders, first=st.integers(0, 4), after=st.integers(0, 40))
    def crash(self, name: str, first: int, after: int) -> None:
        calls = 0

        def at(*_: object) -> None:
            nonlocal calls
            calls += 1
            if calls > after:
                raise Stopped

        try:
            with faults.intercepted(at):
                faults.fill(self.root / name, range(first, first + 2))
        except Stopped:
            pass
        found = set(all_shards(self.root / name)) if (self.root / name).exists() else set()
        assert self.expected[name] <= found <= self.expected[name] | {first, first + 1}
        self.expected[name] = found

    @rule(target_name=folders, source=folders, after=st.integers(0, 40))
    def crash_in_merge(self, target_name: str, source: str, after: int) -> None:
        if not (self.root / source / "manifest.json").is_file():
            return
        calls = 0

        def at(*_: object) -> None:
            nonlocal calls
            calls += 1
            if calls > after:
                raise Stopped

        target, before = self.root / target_name, self.expected[target_name]
        try:
            with faults.intercepted(at):
                merge(target, [self.root / source])
        except Stopped:
            pass
        found = set(all_shards(target)) if target.exists() else set()
        assert before <= found <= before | self.expected[source]
        self.expected[target_name] = found

    @rule(target_name=folders, source=folders)
    def merge_into(self, target_name: str, source: str) -> None:
        if (self.root / source / "manifest.json").is_file():
            new = merge(self.root / target_name, [self.root / source])
            assert new == len(self.expected[source] - self.expected[target_name])
            self.expected[target_name] |= self.expected[source]

    @rule(name=folders, seed=st.integers(0, 9), data=st.data())
    def take(self, name: str, seed: int, data: st.DataObject) -> None:
        if 0 in self.expected[name]:
            kb = KnowledgeBase(self.root / name)
            rows = Choice(data.draw(st.integers(1, len(kb))), seed).rows(kb)
            target = self.root / f"subset-{name}-{seed}-{len(rows)}-{len(kb)}"
            subset(kb, target, rows)
            taken = KnowledgeBase(target)
            assert taken.indices == rows
            for key in (("step_0001", "latents"), ("step_0009", "latents")):
                assert np.array_equal(taken.column(*key), kb.column(*key)[rows])

    @invariant()
    def nothing_is_lost(self) -> None:
        for name, shards in self.expected.items():
            root = self.root / name
            assert all_shards(root) == sorted(shards)
            if 0 in shards:
                run = next(n for n in range(len(shards) + 1) if n not in shards)
                assert faults.state(root) >= 0 and len(KnowledgeBase(root)) == faults.SIZE * run


TestStores = Stores.TestCase
TestStores.settings = settings(
    max_examples=25,
    stateful_step_count=8,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)


def test_a_part_of_another_format_is_refused(tmp_path: Path) -> None:
    faults.fill(tmp_path / "a", range(1))
    newer = Manifest.read(tmp_path / "a")
    path = tmp_path / "a" / "manifest.json"
    text = path.read_text().replace(f'"format": {newer.format}', '"format": 9')
    path.write_text(text)
    with pytest.raises(UsageError, match="altered|format 9"):
        Writer(tmp_path / "a", newer, {})
    with pytest.raises(UsageError, match="altered|format 9"):
        merge(tmp_path / "b", [tmp_path / "a"])
    assert not (tmp_path / "b").exists()
