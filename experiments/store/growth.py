"""How what the benchmark measured grows with the number of keys: one picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from redi.files import write_durably

_STYLES = {  # colour and marker of each kind; scan is what the others are measured against
    "scan": ("0.35", "s"),
    "flat": ("0.6", "D"),
    "pca": ("#4477aa", "o"),
    "ivf": ("#66ccee", "^"),
    "sq": ("#228833", "v"),
    "pq": ("#ccbb44", "P"),
    "hnsw": ("#aa3377", "X"),
}
_AIM = {"color": "#cc3311", "ls": "--", "lw": 1}


def plot(results: dict[str, Any], path: Path) -> None:
    """Six panels over the number of keys; dashed red lines are the aims."""
    sizes = [int(size) for size in results["sizes"]]
    every = list(results["sizes"].values())
    figure = Figure(figsize=(13, 7.4), layout="constrained")
    grid = figure.subplots(2, 3)
    _kinds(grid[0, 0], results, "batch", "time per query in a batch of 16", 1e3)
    grid[0, 0].set(yscale="log", ylabel="ms")
    call = 20 * float(every[-1]["retrieval"]["auto"]["call batch"])  # 2%, in ms
    grid[0, 0].axhline(call, **_AIM)
    grid[0, 0].set_ylim(call / 2, None)
    grid[0, 0].annotate("2% of a network call", (sizes[-1], call), (0, 22), color="#cc3311",
                        textcoords="offset points", fontsize=8, ha="right")  # fmt: skip
    _kinds(grid[0, 1], results, "r10", "recall@10 after re-ranking")
    grid[0, 1].axhline(0.95, **_AIM)
    _kinds(grid[0, 2], results, "build", "time to build an index", leave=("scan", "flat"))
    grid[0, 2].set(yscale="log", ylabel="s")
    _line(grid[1, 0], sizes, [r["write"]["ratio"] for r in every], "append / raw write speed", 0.7)
    _line(grid[1, 1], sizes, [r["read"]["ratio"] for r in every],
          "time to read 5 x 16 keys / raw maps", 1.5)  # fmt: skip
    memory, axis = [r["memory"] for r in every], grid[1, 2]
    _line(axis, sizes, [m["peak"] for m in memory], "memory of auto retrieval", 600, "peak")
    axis.plot(sizes, [m["anonymous"] for m in memory], "o-", color="#4477aa", label="anonymous")
    keys = [size * 32768 / 1e6 for size in sizes]
    axis.plot(sizes, keys, ":", color="0.4", label="the keys themselves")
    axis.plot(sizes, [r["index MB"] for r in every], "^-", color="#228833", label="index on disk")
    axis.set(ylabel="MB", yscale="log", ylim=(1, 40000))  # room for the legend above the lines
    axis.legend(fontsize=8, frameon=False, loc="upper left", ncols=2)
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    for axis in grid.flat:
        axis.set(xscale="log", xlabel="keys (4 x 64 x 64, half precision)")
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    write_durably(path, lambda temporary: figure.savefig(temporary, format="png", dpi=110))


def _kinds(
    axis: Axes,
    results: dict[str, Any],
    what: str,
    title: str,
    unit: float = 1.0,
    leave: tuple[str, ...] = (),
) -> None:
    """A line per kind over the sizes at which it was measured."""
    for kind, (colour, marker) in _STYLES.items():
        rows = {int(s): r["retrieval"].get(kind) for s, r in results["sizes"].items()}
        there = {size: unit * row[what] for size, row in rows.items() if row is not None}
        if kind not in leave:
            axis.plot(list(there), list(there.values()), f"{marker}-", color=colour, label=kind)
    axis.set_title(title, fontsize=10)


def _line(
    axis: Axes, sizes: list[int], values: list[float], title: str, aim: float, label: str = ""
) -> None:
    axis.plot(sizes, values, "s-", color="0.2", label=label)
    axis.axhline(aim, **_AIM)
    axis.set_ylim(0, 1.15 * max(aim, *values))
    axis.set_title(f"{title} (aim {aim:g})", fontsize=10)
