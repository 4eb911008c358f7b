"""The rivals side by side: `python -m experiments.rivals.results`.

Reads the finished runs of rivals, rivals_bank and rivals_growth, and what printed/ holds, and
writes points.parquet (a row for each setting, method and number of calls), table.md and errors.png
beside this file.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from experiments.rivals import printed
from redi.report.budgets import called, paired_ratio
from redi.report.points import Point, write_rows
from redi.report.runs import Run, load_runs

HERE = Path(__file__).resolve().parent
EXPERIMENTS = ("rivals", "rivals_bank", "rivals_growth")
ERROR = "latent_error_converged"
SETTINGS = {2.5: "moderate", 7.5: "hard"}
CORRECTED = "corrected"
Where = tuple[str, str, int]  # setting, noise, trajectories
#: by setting and calls: against the best plain sampler, and against the best fitted rival
Against = dict[Where, dict[int, tuple[str, str]]]


def runs() -> Iterator[Run]:
    """Every finished run, by experiment."""
    for name in EXPERIMENTS:
        if any((HERE.parent / name).glob("*/results.json")):
            yield from load_runs(HERE.parent / name)


def where(run: Run) -> Where:
    """The setting of a run, its noise, and how many trajectories its fits had."""
    scale = run.config["sampling"]["guidance_scale"]
    noise = "bank" if run.config["noise"]["policy"] == "bank" else "unseen"
    return SETTINGS.get(scale, f"guidance {scale:g}"), noise, run.config["kb"]["size"]


def budgeted(run: Run) -> list[Point]:
    """The points of a run that a budget was set for."""
    budgets = run.config["correction"]["calls"]
    named = ("plain@", "corrected@")
    return [p for p in run.points if p.entry.startswith(named) and round(p.calls) in budgets]


def title(point: Point) -> str:
    """What a method is called in every table."""
    if point.method == CORRECTED:
        return CORRECTED
    return point.sampler if point.method == "plain" else called(point)


def is_fitted(point: Point) -> bool:
    """Whether something was fitted to the model's own trajectories."""
    return point.setting("fit_calls") is not None


def row(run: Run, point: Point) -> dict[str, Any]:
    """One row of points.parquet."""
    setting, noise, trajectories = where(run)
    value = point.values[ERROR]
    return {
        "experiment": run.points[0].experiment,
        "setting": setting,
        "guidance": run.config["sampling"]["guidance_scale"],
        "noise": noise,
        "trajectories": trajectories,
        "method": title(point),
        "fitted": is_fitted(point),
        "calls": round(point.calls),
        "passes": 2 * round(point.calls),  # a guided call is two
        ERROR: value.mean,
        f"{ERROR}_low": value.low,
        f"{ERROR}_high": value.high,
        "latent_error_median": point.mean("latent_error_median"),
        "latent_error_p90": point.mean("latent_error_p90"),
        "latent_error": point.mean("latent_error"),
        "predicted_latent_error": point.setting("predicted_latent_error"),
        "fit_calls": point.setting("fit_calls"),
        "fit_seconds": point.setting("fit_seconds"),
        "fit_numbers": point.setting("fit_numbers"),
        "levels": point.setting("levels"),
        "overhead": _overhead(point),
        "prompts": run.config["data"]["num_queries"],
        "noises": run.config["data"]["repeats"],
        "run": run.name,
    }


def _overhead(point: Point) -> float | None:
    """Seconds beside the network, as a share of those in it."""
    network = point.mean("seconds_network")
    beside = [point.mean(name) for name in ("seconds_retrieval", "seconds_rest")]
    known = [seconds for seconds in beside if seconds is not None]
    return sum(known) / network if network and known else None


def printed_rows() -> Iterator[dict[str, Any]]:
    """Rows of the points of which only the printed table is left."""
    for path in sorted((HERE / "printed").glob("*.txt")):
        setting, budget = path.stem.split("-")
        for one in printed.rows(path):
            corrected = one["method"].startswith("retrieval")
            named = one["sampler"].split(":")[0].replace("_", " ") == one["method"]
            plain = one["method"].startswith("same sampler")
            if one["calls"] != int(budget) or not (corrected or named or plain):
                continue
            yield {
                "experiment": "rivals",
                "setting": setting,
                "guidance": {v: k for k, v in SETTINGS.items()}[setting],
                "noise": "unseen",
                "trajectories": 192,
                "method": CORRECTED if corrected else one["sampler"],
                "fitted": not plain or one["sampler"].endswith((":oss", ":gits", ":gits_l2")),
                "calls": one["calls"],
                "passes": 2 * one["calls"],
                ERROR: one["error"],
                f"{ERROR}_low": one["error"] - one["margin"],
                f"{ERROR}_high": one["error"] + one["margin"],
                "prompts": 96,
                "noises": 3,
                "run": f"printed/{path.name}",
            }


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
    found = list(runs())
    rows = [row(run, point) for run in found for point in budgeted(run)] + [*printed_rows()]
    rows.sort(key=order)
    write_rows(rows, HERE / "points.parquet")
    (HERE / "table.md").write_text(table(rows, comparisons(found, rows)), "utf-8")
    plot(rows, HERE / "errors.png")
    print(f"{len(rows)} points of {len(found)} runs: experiments/rivals/points.parquet")


if __name__ == "__main__":
    main()
