"""What a directory of runs says about corrected sampling: tables and figures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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

#: where a run keeps its files: no setting
_PLACES = ("run_dir", "kb.dir", "kb.root", "reference_root")


@dataclass(frozen=True)
class CorrectedReport:
    """Tables by heading, and figures by file name without its ending."""

    tables: dict[str, Grid]
    figures: dict[str, Figure]


def corrected_report(named: Sequence[tuple[Path, Results]]) -> CorrectedReport:
    """Tables of every run with corrected points; empty where there is none.

    One run makes a figure of the error over the calls; three or more whose KBs differ in size make
    one of the error over that size.
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
    found.sort(key=lambda one: _trajectories(one[0]))
    told = settings([run for run, _ in found])
    for to in ERRORS.values():
        named_rows = [
            (setting, row, _kb_calls(run, row.calls))
            for setting, (run, rows) in zip(told, found, strict=True)
            for row in rows.get(to, [])
        ]
        if named_rows:
            tables[f"latent error to {to}"] = budgets_grid(named_rows)
    sizes = [_trajectories(run) for run, _ in found]
    if len(set(sizes)) == len(sizes) >= 3:
        ordered = sorted(zip(sizes, [next(iter(rows.values())) for _, rows in found], strict=True))
        figures["growth"] = growth_figure(*map(list, zip(*ordered, strict=True)))
    elif len(found) == 1 and max(map(len, found[0][1].values())) > 1:
        figures["budgets"] = budgets_figure(list(found[0][1].items()))
    return CorrectedReport(tables, figures)


def settings(runs: Sequence[Results]) -> list[str]:
    """What sets the runs apart, in words; '' where there is only one."""
    flat = [dict(_leaves(run.config)) for run in runs]
    keys = sorted({key for config in flat for key in config})
    varied = [k for k in keys if k not in _PLACES and len({str(c.get(k)) for c in flat}) > 1]
    return [", ".join(f"{k.split('.')[-1]} {_short(c.get(k))}" for k in varied) for c in flat]


def _leaves(config: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def _short(value: Any) -> str:
    text = " + ".join(map(str, value)) if isinstance(value, list) else str(value)
    return "none" if value is None or value == [] else text


def _kb_calls(run: Results, calls: int) -> int:
    """Network calls behind a KB and the corrections of a budget, trials of levels included."""
    correction, size = run.config.get("correction", {}), run.config.get("kb", {}).get("size", 0)
    steps, levels = run.config.get("sampling", {}).get("steps", 0), correction.get("levels", [])
    tried = min(correction.get("trials", 0), size) * len(levels) if len(levels) > 1 else 0
    return size * (steps + calls) + tried * calls


def _trajectories(run: Results) -> int:
    """Trajectories of each noise in the KB."""
    size = next(p.kb_size for p in run.points if p.method == "corrected")
    noise = run.config.get("noise", {})
    return int(size or 0) // (noise.get("bank_size", 1) if noise.get("policy") == "bank" else 1)
