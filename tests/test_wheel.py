"""What is published is whole: a wheel made from the source archive runs away from the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def build(kind: str, source: Path, target: Path) -> Path:
    command = [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(target)]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    (made,) = target.glob("*.whl" if kind == "wheel" else "*.tar.gz")
    return made


def test_a_wheel_from_the_source_archive_runs_elsewhere(tmp_path: Path) -> None:
    pytest.importorskip("hatchling")
    archive = build("sdist", ROOT, tmp_path / "sdist")
    with tarfile.open(archive) as file:
        file.extractall(tmp_path / "source", filter="data")
    (source,) = (tmp_path / "source").iterdir()
    wheel = build("wheel", source, tmp_path / "wheel")
    with zipfile.ZipFile(wheel) as file:
        names = set(file.namelist())
        file.extractall(tmp_path / "installed")
    package = {n.relative_to(ROOT).as_posix() for n in (ROOT / "redi").rglob("*.py")}
    assert package <= names
    assert {"redi/conf/run.yaml", "redi/assets/emoji-clip/model.safetensors"} <= names
    assert not [name for name in names if name.startswith(("tests", "experiments"))]
    program = "import redi, sys; from redi import cli; print(redi.__file__); cli.main()"
    done = subprocess.run(
        [sys.executable, "-c", program, "run", "--cfg", "job"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "installed")},
    )
    where, _, config = done.stdout.partition("\n")
    assert Path(where).is_relative_to(tmp_path / "installed"), done.stderr
    assert config.startswith("sampler:")
