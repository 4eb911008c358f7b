"""How long experiments took, from their own provenance, so that a resumed run counts in full."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from redi.files import write_durably
from redi.report.runs import load_runs


def write_times(root: Path, names: Sequence[str]) -> str:
    """Write `times.md` in `root` and return its table: points and minutes of each experiment.

    Minutes include building whatever part of a knowledge base was not there yet.
    """
    rows, total = [], 0.0
    for name in names:
        runs = load_runs(root / name)
        seconds = sum(float(run.provenance.get("seconds", 0)) for run in runs)
        threads = {run.provenance.get("machine", {}).get("threads") for run in runs}
        total += seconds
        told = ", ".join(sorted(str(count) for count in threads))
        rows.append(f"| {name} | {len(runs)} | {told} | {seconds / 60:.1f} |")
    head = ["| experiment | points | threads | minutes |", "| --- | ---: | ---: | ---: |"]
    text = "\n".join([*head, *rows, f"| all | | | {total / 60:.1f} |"])
    write_durably(root / "times.md", lambda temporary: temporary.write_text(text + "\n"))
    return text
