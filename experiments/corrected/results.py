"""One table of all corrected experiments: python experiments/corrected/results.py

Reads the finished runs of the experiments beside it and writes results.md beside this file. Each
row holds a method against the best plain sampler with as many calls.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from redi.metrics.intervals import Estimate, bootstrap_mean
from redi.report.blocks import Cell, Grid
from redi.report.budgets import budgets, paired_ratio, settings
from redi.report.compare import same_calls
from redi.report.labels import DASH, calls
from redi.report.markdown import markdown_grid
from redi.report.runs import Run, load_runs

PARTS = ("fine", "unseen", "parts", "bases", "levels", "kernels", "features", "banks", "growth")
EXPERIMENTS = ("corrected", *(f"corrected_{part}" for part in PARTS), "redi_best")
WITH_REDI = ("corrected_fine", "redi_best")
HEADINGS = [
    "experiment",
    "setting",
    "noise",
    "method",
    "calls",
    "best plain sampler",
    "its error",
    "error",
    "ratio",
    "ratio to converged",
]


def interval(estimate: Estimate, digits: int) -> str:
    low, mean, high = (f"{v:.{digits}f}" for v in (estimate.low, estimate.mean, estimate.high))
    return f"{mean} [{low}, {high}]"


def corrected_rows(run: Run) -> Iterator[tuple[list[str], Estimate]]:
    """A row for each budget of a run: everything from the method on, and its ratio."""
    converged = {row.point.entry: row for row in budgets(run, "latent_error_converged")}
    for row in budgets(run):
        if row.point.method == "redi":
            continue
        other = converged.get(row.point.entry)
        cells = [
            row.point.method,
            str(row.calls),
            row.best,
            interval(row.plain[row.best], 4),
            interval(row.error, 4),
            interval(row.ratio, 2),
            DASH if other is None else interval(other.ratio, 2),
        ]
        yield cells, row.ratio


def redi_row(run: Run) -> tuple[list[str], Estimate]:
    """ReDi against the same sampler with as many calls."""
    point = run.first("redi")
    beside = None if point is None else same_calls(point, run)
    assert point is not None and beside is not None
    mine, plain = (run.pictures.by_prompt(p.entry, "latent_error") for p in (point, beside))
    assert mine is not None and plain is not None
    ratio = paired_ratio(mine, plain)
    cells = [
        "ReDi",
        calls(point.calls),
        f"{point.sampler} (even)",
        interval(bootstrap_mean(plain), 4),
        interval(bootstrap_mean(mine), 4),
        interval(ratio, 2),
        DASH,
    ]
    return cells, ratio


def in_order(setting: str) -> list[str | int]:
    """Sorts numbers in words by their size."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", setting)]


def rows_of(name: str, root: Path) -> Iterator[list[Cell]]:
    """Rows of one experiment, in the order of its settings."""
    runs = load_runs(root)
    for told, run in sorted(
        zip(settings(runs), runs, strict=True), key=lambda one: in_order(one[0])
    ):
        noise = next(str(p.noise) for p in run.points if p.method == "redi")
        found = list(corrected_rows(run))
        if name in WITH_REDI:
            found.append(redi_row(run))
        for cells, ratio in found:
            texts = [name, told, noise, *cells]
            yield [[(text, i == 8 and ratio.high < 1)] for i, text in enumerate(texts)]


def main() -> None:
    here = Path(__file__).parent
    present = [name for name in EXPERIMENTS if (here.parent / name).is_dir()]
    rows = [row for name in present for row in rows_of(name, here.parent / name)]
    told = (
        "Relative error of the final latents to the prompt's own full run, means with 95% "
        "intervals over prompts; ratios are paired and bold where their interval stays below one. "
        "The best plain sampler is chosen at each number of calls on the very prompts that it is "
        "judged on."
    )
    text = f"{told}\n\n{markdown_grid(Grid(HEADINGS, 4, rows))}\n"
    here.joinpath("results.md").write_text(text)
    print(text, end="")


if __name__ == "__main__":
    main()
