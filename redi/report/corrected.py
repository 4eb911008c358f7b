"""What a directory of runs says about corrected sampling: tables and figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from redi.report.budget_plots import budgets_figure, growth_figure
from redi.report.budgets import ERRORS, Budget, budgets, budgets_grid
from redi.report.results import Results
from redi.report.table import Grid

BEST_PLAIN = (
    "The best plain sampler is chosen anew at every number of calls, on the very queries that it "
    "is judged on. Intervals are over prompts, those of ratios paired; a ratio is bold where its "
    "interval stays below one."
)


@dataclass(frozen=True)
class CorrectedReport:
    """Tables by heading, and figures by file name without its ending."""

    tables: dict[str, Grid]
    figures: dict[str, Figure]


def corrected_report(named: Sequence[tuple[Path, Results]]) -> CorrectedReport:
    """Tables of every run with corrected points; empty where there is none.

    Each run makes a figure of the error over the calls; three or more whose KBs differ in size
    make one of the error over that size instead.
    """
    tables: dict[str, Grid] = {}
    figures: dict[str, Figure] = {}
    found: list[tuple[Results, dict[str, list[Budget]]]] = []
    for folder, run in named:
        if not any(point.method == "corrected" for point in run.points):
            continue
        rows = {to: budgets(folder, column) for column, to in ERRORS.items()}
        rows = {to: list(its) for to, its in rows.items() if its}
        if rows:
            found.append((run, rows))
    for run, rows in found:
        title = f"{run.run}: " if len(found) > 1 else ""
        for to, its in rows.items():
            tables[f"{title}latent error to {to}"] = budgets_grid(its)
    sizes = [_trajectories(run) for run, _ in found]
    if len(set(sizes)) == len(sizes) >= 3:
        ordered = sorted(zip(sizes, [next(iter(rows.values())) for _, rows in found], strict=True))
        figures["growth"] = growth_figure(*map(list, zip(*ordered, strict=True)))
    else:
        for i, (run, rows) in enumerate(found, start=1):
            figure = budgets_figure(list(rows.items()), run.run if len(found) > 1 else "")
            figures["budgets" + f"_{i}" * (len(found) > 1)] = figure
    return CorrectedReport(tables, figures)


def _trajectories(run: Results) -> int:
    """Trajectories of each noise in the KB."""
    size = next(p.kb_size for p in run.points if p.method == "corrected")
    noise = run.config.get("noise", {})
    return int(size or 0) // (noise.get("bank_size", 1) if noise.get("policy") == "bank" else 1)
