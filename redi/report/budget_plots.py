"""Error against calls, and against the number of trajectories, for corrected sampling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from redi.metrics.intervals import Estimate
from redi.report.figures import colour, new_figure
from redi.report.labels import method_label, rank

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

if TYPE_CHECKING:
    from redi.report.budgets import Budget

_MARKS = "os^Dv"  # another one for each round through the colours
_PLAIN = ("#0072B2", "#009E73", "#E69F00", "#56B4E9", "#CC79A7", "#8C8C8C", "#B09A00", "#A05D38")


@dataclass(frozen=True)
class PowerLaw:
    """`error = scale * size ** -exponent`, least squares in logarithms."""

    scale: float
    exponent: float

    def __call__(self, size: float) -> float:
        return self.scale * size**-self.exponent


def power_law(sizes: Sequence[int], errors: Sequence[float]) -> PowerLaw:
    """The law through at least two sizes."""
    slope, offset = np.polyfit(np.log(sizes), np.log(errors), 1)
    return PowerLaw(float(np.exp(offset)), float(-slope))


def budgets_figure(panels: Sequence[tuple[str, Sequence[Budget]]], title: str = "") -> Figure:
    """A panel per reference (named in its title): every sampler's error over its calls."""
    figure = new_figure((5.2 * len(panels), 4.2))
    for axis, (to, rows) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True
    ):
        names = sorted({name for row in rows for name in row.plain})
        for i, (name, shade) in enumerate(zip(names, _PLAIN * len(names), strict=False)):
            mark = _MARKS[i // len(_PLAIN) % len(_MARKS)]
            found = [(row.calls, row.plain[name]) for row in rows if name in row.plain]
            _line(axis, found, shade, name, "--", mark)
        for method in sorted({row.point.method for row in rows}, key=rank):
            found = [(row.calls, row.error) for row in rows if row.point.method == method]
            _line(axis, found, colour(method), method_label(method), "-")
        axis.set(xscale="log", yscale="log", xlabel="network calls per image")
        axis.set_title(f"latent error to {to}, lower is better", fontsize=10)
        ticks = sorted({row.calls for row in rows})
        axis.set_xticks(ticks, list(map(str, ticks)))
        _tidy(axis)
    if title:
        figure.suptitle(title, fontsize=11, fontweight="bold")
    return figure


def growth_figure(sizes: Sequence[int], runs: Sequence[Sequence[Budget]]) -> Figure:
    """Error over trajectories per noise, one line per budget, with its power law."""
    figure = new_figure((5.6, 4.2))
    axis = figure.subplots()
    kept = [{(row.point.method, row.calls): row for row in rows} for rows in runs]
    budgets = sorted(set.intersection(*map(set, kept)))
    for (method, calls), shade in zip(budgets, _PLAIN * len(budgets), strict=False):
        rows = [its[method, calls] for its in kept]
        found = list(zip(sizes, [row.error for row in rows], strict=True))
        law = power_law(sizes, [row.error.mean for row in rows])
        label = f"{calls} calls, falls as $K^{{-{law.exponent:.2f}}}$"
        _line(axis, found, shade, label, "-")
        axis.plot(sizes, [law(size) for size in sizes], color=shade, linestyle=":", linewidth=1)
        best = min(estimate.mean for estimate in rows[0].plain.values())
        axis.axhline(best, color=shade, linestyle="--", linewidth=1)
    axis.set(xscale="log", yscale="log", xlabel="trajectories of one noise")
    axis.set_title("latent error to its own full run (dashed: best plain sampler)", fontsize=10)
    axis.set_xticks(list(sizes), [str(size) for size in sizes])
    _tidy(axis)
    return figure


def _line(
    axis: Axes,
    found: Sequence[tuple[int, Estimate]],
    shade: str,
    label: str,
    style: str,
    mark: str = "o",
) -> None:
    axis.errorbar(
        [at for at, _ in found],
        [e.mean for _, e in found],
        yerr=[[e.mean - e.low for _, e in found], [e.high - e.mean for _, e in found]],
        color=shade,
        linestyle=style,
        marker=mark,
        markersize=4,
        capsize=2,
        linewidth=1.8 if style == "-" else 1.0,
        elinewidth=0.8,
        label=label,
    )


def _tidy(axis: Axes) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    for side in (axis.xaxis, axis.yaxis):
        side.set_minor_locator(NullLocator())
    axis.grid(True, which="both", color="#e4e4e4", linewidth=0.6)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=3, frameon=False, fontsize=8)
