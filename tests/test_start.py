"""What answers at once: commands that check, list and read must not import what computes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from redi import cli
from redi.composition import CONF, compose_config
from redi.verbs.identity import run_identity, short
from tests.stores import fill

MAIN = CONF.parent / "experiments" / "main"
#: packages that take seconds to import
HEAVY = (
    *("torch", "torchvision", "torchmetrics", "diffusers", "transformers", "lightning"),
    *("scipy", "sklearn", "pandas", "matplotlib", "faiss", "wandb", "tensorboard"),
)
# every command in turn in one process, so that the first to import something is named
PROGRAM = """
import json, sys
from redi import cli
heavy, commands = json.loads(sys.argv[1])
import redi
assert redi.METHODS["redi"] is redi.ReDi
for command in [[], *commands]:
    sys.argv = ["redi", *command]
    if command:
        try:
            cli.main()
        except SystemExit as end:
            print("exit", end.code)
    found = [name for name in heavy if name in sys.modules]
    assert not found, f"{command or 'import redi'} imports {found}"
"""


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """A run directory with everything in it, of the default configuration."""
    folder = tmp_path / "finished"
    folder.mkdir()
    for name in ("config.yaml", "points.parquet", "table.md", "pareto.png", "sheet.png"):
        (folder / name).write_bytes((MAIN / name).read_bytes())
    results = json.loads((MAIN / "results.json").read_text())
    identity = run_identity(compose_config("run", []))
    results["provenance"] |= {"identity": identity, "config_hash": short(identity)}
    (folder / "results.json").write_text(json.dumps(results))
    return folder


def test_commands_that_compute_nothing_import_nothing_heavy(tmp_path: Path, finished: Path) -> None:
    kb, merged = fill(tmp_path / "kb"), tmp_path / "merged"
    commands = [
        ["--help"],
        ["kb", "info", str(kb)],
        ["kb", "verify", str(kb)],
        ["kb", "merge", str(merged), str(kb)],
        ["kb", "info", f"kb.dir={kb}"],
        ["methods"],
        ["run", "--cfg", "job"],
        ["kb.sise=3"],
        ["retrieval.estimator=papper"],
        ["sampler=ddim", "sampler.order=2"],
        ["correction.calls=[5,900]"],
        ["+methods=corrected", "methods.corrected.cals=5"],
        [f"run_dir={finished}", "logger=none"],
    ]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps([HEAVY, commands])],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert f"Already finished, skipped: {finished}" in done.stdout.replace("\n", "")
    assert done.stdout.count("exit 2") == 5
    assert "2 shards copied" in done.stdout


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("redi th", {"theory"}),
        ("redi run sampler=dd", {"sampler=ddim"}),
        ("redi kb.key_st", {"kb.key_step="}),
        ("redi theory theory=qu", {"theory=quick"}),
    ],
)
def test_a_shell_completes_verbs_groups_and_keys(
    line: str,
    expected: set[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("COMP_LINE", line)
    monkeypatch.setenv("COMP_POINT", str(len(line)))
    monkeypatch.setattr(sys, "argv", ["redi", "-sc", "query=bash"])
    cli.main()
    assert expected <= set(capsys.readouterr().out.split())
