"""One table of all corrected experiments: python experiments/corrected/results.py

Reads the finished runs of the experiments beside it and writes results.md beside this file. Each
row holds a method against the best plain sampler with as many calls.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq

from redi.metrics.intervals import Estimate, bootstrap_mean
from redi.report.budgets import budgets, by_method, paired_ratio
from redi.report.corrected import settings
from redi.report.labels import DASH, calls
from redi.report.results import Results, find_runs, load_results
from redi.report.table import Cell, Grid, markdown_grid

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


def corrected_rows(folder: Path) -> Iterator[tuple[list[str], Estimate]]:
    """A row for each budget of a run: everything from the method on, and its ratio."""
    converged = {row.calls: row for row in budgets(folder, "latent_error_converged")}
    for row in budgets(folder):
        other = converged.get(row.calls)
        cells = [
            "corrected",
            str(row.calls),
            row.best,
            interval(row.plain[row.best], 4),
            interval(row.corrected, 4),
            interval(row.ratio, 2),
            DASH if other is None else interval(other.ratio, 2),
        ]
        yield cells, row.ratio


def redi_row(run: Results, folder: Path) -> tuple[list[str], Estimate]:
    """ReDi against the same sampler with as many calls."""
    table = pq.read_table(folder / "per_image.parquet").to_pydict()
    values = by_method(table, "latent_error")
    point = next(p for p in run.points if p.method == "redi")
    mine, plain = values["redi"], values["plain"]
    ratio = paired_ratio(mine, plain)
    cells = [
        "ReDi",
        calls(point.nfe),
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
    folders = find_runs(root)
    runs = [load_results(folder, folder.name) for folder in folders]
    for told, run, folder in sorted(
        zip(settings(runs), runs, folders, strict=True), key=lambda one: in_order(one[0])
    ):
        policy = next(str(p.noise_policy) for p in run.points if p.method == "redi")
        noise = "unseen" if policy == "per_prompt" else policy
        found = list(corrected_rows(folder))
        if name in WITH_REDI:
            found.append(redi_row(run, folder))
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
