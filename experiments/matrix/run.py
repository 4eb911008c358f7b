"""Installs redi with old, middle and new versions of what it depends on, and runs tests with each.

    python experiments/matrix/run.py [ROW ...] [--folder FOLDER] [--keep] [--tests FILE ...]

Each row is an environment of its own below `--folder`, made by uv, into which redi is installed as
`pyproject.toml` says, with the row's further constraints. The result is added to `table.md`: rows
that are not run again stay.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TABLE = Path(__file__).with_name("table.md")
#: what other packages' versions change: schedulers, pipelines of all families, store, search
TESTS = ["samplers", "families", "knowledge_base", "retrieval"]
SHOWN = ("torch", "diffusers", "transformers", "numpy", "lightning", "pyarrow")


@dataclass(frozen=True)
class Row:
    """One environment."""

    constraints: tuple[str, ...] = ()
    python: str = "3.11"
    resolution: str = "highest"


ROWS = {
    "lowest": Row(resolution="lowest-direct"),
    "diffusers 0.37": Row(("diffusers==0.37.*", "transformers<5", "torch==2.9.*")),
    "diffusers 0.39": Row(("diffusers==0.39.*", "torch==2.11.*")),
    "newest": Row(),
    "Python 3.12": Row(python="3.12"),
    "Python 3.13": Row(python="3.13"),
}


def install(row: Row, folder: Path) -> str | None:
    """Make the environment; returns why it cannot be made."""
    constraints = folder / "constraints.txt"
    constraints.write_text("\n".join(row.constraints) + "\n")
    environment = folder / "env"
    for command in (
        ["uv", "venv", "-q", "--python", row.python, str(environment)],
        [
            *("uv", "pip", "install", "-q", "--resolution", row.resolution, "-c", str(constraints)),
            *("--python", str(environment / "bin" / "python"), "-e", f"{ROOT}[test]"),
        ],
    ):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
            return said[-1][:150] if said else "uv failed"
    return None


def tested(folder: Path, names: list[str]) -> tuple[str, str]:
    """What the tests said in one line, and everything they said."""
    python = folder / "env" / "bin" / "python"
    files = [f"tests/test_{name}.py" for name in names]
    done = subprocess.run(
        [str(python), "-m", "pytest", "-p", "no:cacheprovider", "-q", *files],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": "", "PATH": f"{python.parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
    )
    output = done.stdout + done.stderr
    failed = re.findall(r"^(?:FAILED|ERROR) (\S+)", output, re.M)
    told = "passed" if not done.returncode else f"{len(failed)} failed: {', '.join(failed[:3])}"
    return told, output


def versions(folder: Path) -> dict[str, str]:
    """Versions in an environment."""
    listed = subprocess.run(
        ["uv", "pip", "list", "--format", "json", "--python", str(folder / "env/bin/python")],
        capture_output=True,
        text=True,
        check=True,
    )
    return {item["name"]: item["version"] for item in json.loads(listed.stdout)}


def write(name: str, cells: list[str]) -> None:
    """Put a row into the table, in the place of an older one of its name."""
    head = [f"| row | Python | {' | '.join(SHOWN)} | tests |", "| --- |" + " --- |" * 8]
    kept = dict[str, str]()
    if TABLE.is_file():
        lines = [line for line in TABLE.read_text().splitlines() if line.startswith("| ")][2:]
        kept = {line.split("|")[1].strip(): line for line in lines}
    kept[name] = f"| {name} | {' | '.join(cells)} |"
    ordered = [kept[known] for known in ROWS if known in kept]
    text = f"# Versions\n\nMade by `make matrix`. Tests of each row: {', '.join(TESTS)}.\n\n"
    marked = ["<!-- --8<-- [start:rows] -->", *head, *ordered, "<!-- --8<-- [end:rows] -->"]
    TABLE.write_text(text + "\n".join(marked) + "\n")


def main() -> int:
    """Run the rows; returns how many failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rows", nargs="*", metavar="ROW", help=", ".join(ROWS))
    parser.add_argument("--folder", type=Path, help="where environments are made")
    parser.add_argument("--keep", action="store_true", help="leave them there")
    parser.add_argument("--tests", nargs="+", default=TESTS, metavar="NAME", help="tests/test_NAME")
    options = parser.parse_args()
    base = options.folder or Path(tempfile.mkdtemp(prefix="redi-matrix-"))
    failures = 0
    for name in options.rows or ROWS:
        row, folder, start = ROWS[name], base / name.replace(" ", "-"), time.monotonic()
        folder.mkdir(parents=True, exist_ok=True)
        problem = install(row, folder)
        if problem is None:
            found = versions(folder)
            told, output = tested(folder, options.tests)
            (base / f"{folder.name}.txt").write_text(output)
            shown = [found.get(package, "") for package in SHOWN]
        else:
            told, shown = f"not installed: {problem}", [""] * len(SHOWN)
        failures += told != "passed" and problem is None
        write(name, [row.python, *shown, told])
        print(f"{name}: {told}, {time.monotonic() - start:.0f} s", flush=True)
        if not options.keep:
            shutil.rmtree(folder)
    return failures


if __name__ == "__main__":
    raise SystemExit(main())
