"""The rivals side by side: `python -m experiments.rivals.results`.

Reads the finished runs in this folder and what printed/ holds, and writes points.parquet (a row for
each setting, method and number of calls), table.md, pictures.md and two plots.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.rivals.pictures import picture_tables
from experiments.rivals.plots import errors_plot, growth_plot
from experiments.rivals.points import (
    CORRECTED,
    ERROR,
    HERE,
    Where,
    budgeted,
    noises,
    printed_rows,
    row,
    runs,
    title,
)
from redi.report.budgets import paired_ratio
from redi.report.points import write_rows
from redi.report.runs import Run

#: by setting and calls: against the best plain sampler, and against the best fitted rival
Against = dict[Where, dict[int, tuple[str, str]]]


def comparisons(found: Sequence[Run], rows: Sequence[dict[str, Any]]) -> Against:
    """Corrected sampling against the best plain sampler and the best fitted rival, in words.

    Both are chosen on the very queries that they are judged on, in their favour. Intervals are
    paired over prompts; where only the printed table is left, there are none.
    """
    result: Against = defaultdict(dict)
    groups: dict[tuple[Where, int, str], dict[str, dict[str, Any]]] = defaultdict(dict)
    for one in rows:
        at = one["setting"], one["noise"], one["trajectories"]
        groups[at, one["calls"], one["run"]][one["method"]] = one
    by_name = {run.name: run for run in found}
    for (at, calls, name), methods in groups.items():
        told = []
        for kind in (False, True):
            beside = [m for m, r in methods.items() if r["fitted"] is kind and m != CORRECTED]
            best = min(beside, key=lambda m: methods[m][ERROR])
            run = by_name.get(name)
            told.append(f"{_ratio(run, calls, methods, best)} ({best})")
        result[at][calls] = told[0], told[1]
    return result


def _ratio(run: Run | None, calls: int, methods: dict[str, dict[str, Any]], best: str) -> str:
    """Corrected sampling's error over another's."""
    if run is None:
        return f"{methods[CORRECTED][ERROR] / methods[best][ERROR]:.2f}"
    values = {}
    for point in budgeted(run):
        if round(point.calls) == calls and title(point) in (CORRECTED, best):
            values[title(point)] = run.pictures.by_prompt(point.entry, ERROR)
    mine, other = values[CORRECTED], values[best]
    assert mine is not None and other is not None
    found = paired_ratio(mine, other)
    return f"{found.mean:.2f} [{found.low:.2f}, {found.high:.2f}]"


def order(one: dict[str, Any]) -> tuple[Any, ...]:
    """Where a row stands."""
    return tuple(one[name] for name in ("setting", "noise", "trajectories", "method", "calls"))


def table(rows: Sequence[dict[str, Any]], against: Against) -> str:
    """For each setting: every method over the calls, and corrected sampling against the best."""
    groups: dict[Where, dict[str, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
    for one in rows:
        at = one["setting"], one["noise"], one["trajectories"]
        groups[at][one["method"]][one["calls"]] = one[ERROR]
    lines = []
    for at, methods in groups.items():
        calls = sorted({n for found in methods.values() for n in found})
        least = {n: min(found[n] for found in methods.values() if n in found) for n in calls}
        lines += [f"## {at[0]}, {noises(at[1])}, {at[2]} trajectories", ""]
        lines.append("| method | " + " | ".join(f"{n} calls" for n in calls) + " |")
        lines.append("| --- |" + " ---: |" * len(calls))
        ratios = {
            name: np.mean([error / least[n] for n, error in found.items()])
            for name, found in methods.items()
        }
        ranked = sorted(methods, key=ratios.__getitem__)
        for name in ranked:
            told = [_cell(methods[name].get(n), least[n]) for n in calls]
            lines.append(f"| {name} | " + " | ".join(told) + " |")
        for place, kind in enumerate(("best plain sampler", "best fitted rival")):
            told = [against[at][n][place] if n in against[at] else "–" for n in calls]
            lines.append(f"| *corrected / {kind}* | " + " | ".join(told) + " |")
        lines.append("")
    return "\n".join(lines)


def _cell(error: float | None, least: float) -> str:
    if error is None:
        return "–"
    return f"**{error:.3f}**" if error == least else f"{error:.3f}"


def main() -> None:
    found = runs()
    rows = [row(run, point) for run in found for point in budgeted(run)] + [*printed_rows()]
    rows.sort(key=order)
    write_rows(rows, HERE / "points.parquet")
    (HERE / "table.md").write_text(table(rows, comparisons(found, rows)), "utf-8")
    (HERE / "pictures.md").write_text(picture_tables(runs("clip_score")), "utf-8")
    errors_plot(rows, HERE / "errors.png")
    growth_plot(rows, HERE / "growth.png")
    print(f"{len(rows)} points of {len(found)} runs: experiments/rivals/points.parquet")


if __name__ == "__main__":
    main()
