"""What a GPU must show: equality with the CPU, speed, memory, retrieval, training.

    python -m experiments.gpu.check [--size full|quick|small] [--only WORD] [--out FOLDER]

`full` takes at most 8 minutes on a data-centre GPU, `quick` about 90 seconds (one repeat, no
torch.compile), `small` runs anywhere, on the CPU too (the embedded model in the place of Stable
Diffusion 1.5). Each check prints one line as soon as it is done; one that fails does not stop the
others. `FOLDER/SIZE.md` gets the table; the exit code is the number of checks that missed their
aim.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from experiments.gpu.commands import Commands
from experiments.gpu.parts import latents, retrieval, training
from experiments.gpu.pipeline import Speed
from experiments.gpu.terms import GPU, SIZES, Row
from redi.verbs.provenance import versions
from redi.verbs.quiet import quiet_loading


def machine() -> str:
    """Device and versions that the numbers hold for."""
    device = torch.cuda.get_device_name() if GPU else f"CPU, {torch.get_num_threads()} threads"
    known = versions()
    named = {name: known[name] for name in ("python", "torch", "diffusers", "transformers")}
    return device + "; " + ", ".join(f"{name} {number}" for name, number in named.items())


def main() -> int:
    """Run every check; returns how many missed their aim."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="full" if GPU else "small")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    parser.add_argument("--only", help="checks whose name holds this word")
    options = parser.parse_args()
    size, missed = SIZES[options.size], 0
    quiet_loading()
    print(machine(), flush=True)
    lines = ["| check | measured | aim | seconds |", "| --- | --- | --- | ---: |"]
    made: dict[str, Any] = {}

    def once(kind: type, folder: Path) -> Any:
        if kind.__name__ not in made:
            made[kind.__name__] = kind(size, folder)
        return made[kind.__name__]

    checks: dict[str, Callable[[Path], Row]] = {
        # what is timed comes first and alone
        "speed by calls and by the clock": lambda f: once(Speed, f).ratio(),
        "peak memory": lambda f: once(Speed, f).peak(),
        "training": lambda f: training(size, f),
        "ways to run the network": lambda f: once(Speed, f).options(),
        f"nearest of {size.keys:,} keys": lambda f: retrieval(size, f),
        "main job, GPU and CPU": lambda f: once(Commands, f).main_job(),
        "KB of one process and of two": lambda f: once(Commands, f).knowledge_base(),
        "latents, GPU and CPU": lambda f: latents(size, f),
    }
    with tempfile.TemporaryDirectory() as name:
        for number, (told, check) in enumerate(checks.items()):
            if options.only and options.only not in told:
                continue
            folder, start = Path(name, str(number)), time.perf_counter()
            folder.mkdir()
            try:
                row = check(folder)
            except Exception as error:  # the others are still worth running
                first = (str(error).strip().splitlines() or [""])[0][:300]
                row = Row(f"{type(error).__name__}: {first}", reached=False)
            missed += row.reached is False
            spent = time.perf_counter() - start
            verdict = {True: "reached", False: "MISSED", None: ""}[row.reached]
            aim = f"{row.aim} ({verdict})" if row.aim else verdict
            print(f"{told}: {row.measured} [{aim or 'no aim'}] {spent:.1f} s", flush=True)
            lines.append(f"| {told} | {row.measured} | {aim} | {spent:.1f} |")
    options.out.mkdir(parents=True, exist_ok=True)
    command = f"python -m experiments.gpu.check --size {options.size}"
    text = f"# GPU check\n\n{machine()}. Made by `{command}`.\n\n" + "\n".join(lines) + "\n"
    (options.out / f"{options.size}.md").write_text(text)
    return missed


if __name__ == "__main__":
    raise SystemExit(main())
