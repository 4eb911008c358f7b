"""The documentation does what it says: its Python runs, its commands compose."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from redi.cli import VERBS, _kb_named
from redi.composition import checked_arguments, compose_config, points
from redi.metrics.base import METRICS
from redi.schemas import SCHEMAS, register

ROOT = Path(__file__).parents[1]
#: those of notebooks are made from what test_notebooks.py runs
WRITTEN = [p for p in sorted((ROOT / "docs").rglob("*.md")) if p.parent.name != "notebooks"]
PAGES = [ROOT / "README.md", *WRITTEN]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.M | re.S)


@pytest.mark.parametrize(
    "page", [p for p in PAGES if blocks(p, "python")], ids=lambda p: p.relative_to(ROOT).as_posix()
)
def test_the_python_of_a_page_runs_from_top_to_bottom(
    page: Path, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder-of-a-pipeline").symlink_to(tiny_folder)
    Path("experiments").symlink_to(ROOT / "experiments")
    Path("captions.txt").write_text("a red fox\na blue car\na small tree\na large apple\n")
    known, names = dict(METRICS), {"__name__": "page"}
    try:
        for code in blocks(page, "python"):
            exec(compile(code, str(page), "exec"), names)
    finally:
        METRICS.clear()
        METRICS.update(known)


@pytest.mark.parametrize(
    "page", [p for p in PAGES if blocks(p, "bash")], ids=lambda p: p.relative_to(ROOT).as_posix()
)
def test_the_commands_of_a_page_compose(page: Path) -> None:
    register()
    lines = [line for block in blocks(page, "bash") for line in block.splitlines()]
    commands = [shlex.split(line, comments=True) for line in lines]
    assert any(commands)
    for command in commands:
        if command[:1] != ["redi"]:
            assert not command or command[0] == "make", command
            continue
        verb, rest = (command[1], command[2:]) if command[1:2] else ("run", [])
        if verb not in VERBS:
            verb, rest = "run", command[1:]
        if verb == "kb":
            assert rest[0] in ("build", "search"), command
            rest = [argument for argument in rest[1:] if "=" in argument]
        if verb == "demo":
            rest = _kb_named(rest)
        schema = verb if verb in SCHEMAS else "run"
        if verb in ("run", "evaluate", "kb", "train", "theory", "calibrate", "demo"):
            for overrides in points(checked_arguments(schema, rest)):
                compose_config(schema, overrides)
