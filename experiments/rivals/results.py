"""The rivals side by side: `python -m experiments.rivals.results`.

Reads the finished runs in this folder and what printed/ holds, and writes points.parquet (a row for
each setting, method and number of calls), table.md, pictures.md and errors.png beside this file.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from experiments.rivals.pictures import picture_tables
from experiments.rivals.points import (
    CORRECTED,
    ERROR,
    HERE,
    Where,
    budgeted,
    pictured,
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
        lines += [f"## {at[0]}, {_noises(at[1])}, {at[2]} trajectories", ""]
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


def _noises(noise: str) -> str:
    return "noises of the KB" if noise == "bank" else "unseen noises"


def _cell(error: float | None, least: float) -> str:
    if error is None:
        return "–"
    return f"**{error:.3f}**" if error == least else f"{error:.3f}"


def plot(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Error over calls: a panel per setting; the best of each kind, every other method in grey."""
    panels = sorted({(r["setting"], r["noise"], r["trajectories"]) for r in rows})
    panels = [at for at in panels if sum(_at(r, at) for r in rows) > 20]
    figure, axes = plt.subplots(
        1, len(panels), figsize=(4.4 * len(panels), 4.2), sharey=True, squeeze=False
    )
    for axis, at in zip(axes[0], panels, strict=True):
        lines: dict[str, list[tuple[int, float]]] = defaultdict(list)
        kind: dict[str, bool] = {}
        for one in sorted((r for r in rows if _at(r, at)), key=lambda r: r["calls"]):
            lines[one["method"]].append((one["calls"], one[ERROR]))
            kind[one["method"]] = one["fitted"]
        whole = [n for n in lines if len(lines[n]) == len(lines[CORRECTED]) and n != CORRECTED]
        shown = [CORRECTED] + [
            min((n for n in whole if kind[n] is fit), key=lambda n: _geometric(lines[n]))
            for fit in (False, True)
        ]
        for name, points in lines.items():
            if name not in shown:
                axis.plot(*zip(*points, strict=True), color="#CCCCCC", lw=0.8, zorder=1)
        for name, colour in zip(shown, ("#6A3D9A", "#0072B2", "#D55E00"), strict=True):
            axis.plot(*zip(*lines[name], strict=True), color=colour, marker="o", ms=4, label=name)
        axis.set(
            xscale="log",
            yscale="log",
            xlabel="network calls",
            title=f"{at[0]}, {_noises(at[1])}, {at[2]} trajectories",
        )
        ticks = sorted({n for points in lines.values() for n, _ in points})
        axis.set_xticks(ticks, [str(n) for n in ticks])
        axis.minorticks_off()
        axis.set_ylim(0.05, 1.2)
        axis.set_yticks([0.05, 0.1, 0.2, 0.5, 1], ["0.05", "0.1", "0.2", "0.5", "1"])
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
        axis.title.set_fontsize(9)
    axes[0][0].set_ylabel("latent error to the converged run")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _at(one: dict[str, Any], at: Where) -> bool:
    return (one["setting"], one["noise"], one["trajectories"]) == at


def _geometric(points: Sequence[tuple[int, float]]) -> float:
    return float(np.mean([np.log(error) for _, error in points]))


def main() -> None:
    found = runs()
    rows = [row(run, point) for run in found for point in budgeted(run)] + [*printed_rows()]
    rows.sort(key=order)
    write_rows(rows, HERE / "points.parquet")
    (HERE / "table.md").write_text(table(rows, comparisons(found, rows)), "utf-8")
    (HERE / "pictures.md").write_text(picture_tables(pictured()), "utf-8")
    plot(rows, HERE / "errors.png")
    print(f"{len(rows)} points of {len(found)} runs: experiments/rivals/points.parquet")


if __name__ == "__main__":
    main()
