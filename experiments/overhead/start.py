"""How long commands take that compute nothing, and until the main job says what it is doing.

    python experiments/overhead/start.py [--before CHECKOUT] [--repeats 3]

runs each command in new processes, in turn with the same command of another checkout (such as a
`git worktree` of an older revision) and with the import of hydra and pyarrow alone, and writes
the medians to `start.md`. CPU seconds are what other work on the machine does not lengthen. As
with every installed package, Python finds its bytecode: each command runs once before it is timed.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parents[2]
RUN = [
    *("kb.size=8", "kb.shard_size=8", "kb.key_step=2", "sampling.steps=8", "data.num_queries=2"),
    *("metrics.hooks=[cost,fidelity]", "report.sheet_rows=0", "baselines=[plain]"),
]
IMPORTS, MODULES = "import of hydra and pyarrow", "import hydra, pyarrow.parquet"


def commands(folder: Path) -> dict[str, list[str]]:
    """Arguments by what the table calls them; KB and run are made by the first checkout timed."""
    kb = str(folder / "kb")
    return {
        "kb info": ["kb", "info", kb],
        "kb verify": ["kb", "verify", kb],
        "kb merge": ["kb", "merge", str(folder / "merged"), kb],
        "run --cfg job": ["run", "--cfg", "job"],
        "a mistyped key": ["kb.sise=3"],
        "methods": ["methods"],
        "already finished": [*RUN, f"kb.dir={kb}", f"run_dir={folder / 'run'}"],
    }


def environment(checkout: Path, folder: Path) -> dict[str, str]:
    """What a process sees: the checkout's package, and bytecode that is kept beside `folder`."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    bytecode = str(folder.parent / f"{folder.name}-bytecode")
    return {**kept, "PYTHONPATH": str(checkout), "PYTHONPYCACHEPREFIX": bytecode}


def timed(arguments: list[str], checkout: Path, folder: Path) -> tuple[float, float]:
    """Wall-clock and CPU seconds of one process."""
    known = environment(checkout, folder)
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, *arguments], env=known, cwd=folder, capture_output=True)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def first_line(checkout: Path, folder: Path) -> tuple[float, str]:
    """Seconds until the main job prints something, and what."""
    known = environment(checkout, folder)
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "redi.cli", *RUN, "run_dir=said", "kb.dir=said-kb"],
        env=known,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    line = process.stdout.readline().strip()
    found = time.perf_counter() - start
    process.terminate()
    process.wait()
    return found, line


def main() -> None:
    """Time, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--before", type=Path, help="another checkout to compare with")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    checkouts = {"now": HERE} | ({"before": options.before.resolve()} if options.before else {})
    taken: dict[tuple[str, str], list[tuple[float, float]]] = {}
    said: dict[str, list[tuple[float, str]]] = {}
    with tempfile.TemporaryDirectory() as name:
        folders = {which: Path(name, which) for which in checkouts}
        for which, checkout in checkouts.items():
            folder = folders[which]
            folder.mkdir()
            made = ["-m", "redi.cli", *RUN, f"kb.dir={folder / 'kb'}", f"run_dir={folder / 'run'}"]
            timed(made, checkout, folder)
        for repeat in range(options.repeats + 1):
            spent = {(IMPORTS, "now"): timed(["-c", MODULES], HERE, folders["now"])}
            for which, checkout in checkouts.items():
                folder = folders[which]
                for told, arguments in commands(folder).items():
                    spent[told, which] = timed(["-m", "redi.cli", *arguments], checkout, folder)
                if repeat:
                    said.setdefault(which, []).append(first_line(checkout, folder))
            for key, seconds in spent.items() if repeat else ():  # the first round writes bytecode
                taken.setdefault(key, []).append(seconds)
    heads = [f"{which}, {unit}" for which in checkouts for unit in ("seconds", "CPU seconds")]
    lines = [f"| command | {' | '.join(heads)} |", "| --- |" + " ---: |" * len(heads)]
    for told in [IMPORTS, *commands(Path())]:
        cells = []
        for which in checkouts:
            series = taken.get((told, which), [])
            cells += [
                f"{statistics.median(s):.2f}" if s else "" for s in zip(*series, strict=True)
            ] or ["", ""]
        lines.append(f"| {told} | {' | '.join(cells)} |")
    cells = []
    for which in checkouts:
        cells += [f"{statistics.median(s for s, _ in said[which]):.2f}", ""]
    lines.append(f"| the main job's first line | {' | '.join(cells)} |")
    table = "\n".join(lines) + "\n"
    print(table, end="")
    note = (
        "# Time to an answer\n\n"
        f"Medians of {options.repeats} new processes each, in turn, on one machine, with bytecode "
        "at hand. "
        f"The main job's first line: “{said['now'][0][1]}”. "
        "Made by `python experiments/overhead/start.py --before CHECKOUT`.\n\n"
    )
    Path(__file__).with_name("start.md").write_text(note + table)


if __name__ == "__main__":
    main()
