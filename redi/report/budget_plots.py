"""Error against calls, and against the number of trajectories, for corrected sampling."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from redi.metrics.intervals import Estimate
from redi.report.budgets import Budget, power_law
from redi.report.figures import COLOURS

_MARKS = "os^Dv"  # another one for each round through the colours
_PLAIN = ("#0072B2", "#009E73", "#E69F00", "#56B4E9", "#CC79A7", "#8C8C8C", "#B09A00", "#A05D38")


def budgets_figure(panels: Sequence[tuple[str, Sequence[Budget]]], title: str = "") -> Figure:
    """A panel per reference (named in its title): every sampler's error over its calls."""
    figure = Figure(figsize=(5.2 * len(panels), 4.2), layout="constrained")
    for axis, (to, rows) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True
    ):
        names = sorted({name for row in rows for name in row.plain})
        for i, (name, colour) in enumerate(zip(names, _PLAIN * len(names), strict=False)):
            mark = _MARKS[i // len(_PLAIN) % len(_MARKS)]
            found = [(row.calls, row.plain[name]) for row in rows if name in row.plain]
            _line(axis, found, colour, name, "--", mark)
        _line(axis, [(r.calls, r.corrected) for r in rows], COLOURS["corrected"], "corrected", "-")
        axis.set(xscale="log", yscale="log", xlabel="network calls per image")
        axis.set_title(f"latent error to {to}, lower is better", fontsize=10)
        axis.set_xticks([row.calls for row in rows], [str(row.calls) for row in rows])
        _tidy(axis)
    if title:
        figure.suptitle(title, fontsize=11, fontweight="bold")
    return figure


def growth_figure(sizes: Sequence[int], runs: Sequence[Sequence[Budget]]) -> Figure:
    """Error over trajectories per noise, one line per budget, with its power law."""
    figure = Figure(figsize=(5.6, 4.2), layout="constrained")
    axis = figure.subplots()
    budgets = sorted({row.calls for rows in runs for row in rows})
    for calls, colour in zip(budgets, _PLAIN * len(budgets), strict=False):
        rows = [next(r for r in rows if r.calls == calls) for rows in runs]
        found = list(zip(sizes, [row.corrected for row in rows], strict=True))
        law = power_law(sizes, [row.corrected.mean for row in rows])
        label = f"{calls} calls, falls as $K^{{-{law.exponent:.2f}}}$"
        _line(axis, found, colour, label, "-")
        axis.plot(sizes, [law(size) for size in sizes], color=colour, linestyle=":", linewidth=1)
        best = min(estimate.mean for estimate in rows[0].plain.values())
        axis.axhline(best, color=colour, linestyle="--", linewidth=1)
    axis.set(xscale="log", yscale="log", xlabel="trajectories of one noise")
    axis.set_title("latent error to its own full run (dashed: best plain sampler)", fontsize=10)
    axis.set_xticks(list(sizes), [str(size) for size in sizes])
    _tidy(axis)
    return figure


def _line(
    axis: Axes,
    found: Sequence[tuple[int, Estimate]],
    colour: str,
    label: str,
    style: str,
    mark: str = "o",
) -> None:
    axis.errorbar(
        [at for at, _ in found],
        [e.mean for _, e in found],
        yerr=[[e.mean - e.low for _, e in found], [e.high - e.mean for _, e in found]],
        color=colour,
        linestyle=style,
        marker=mark,
        markersize=4,
        capsize=2,
        linewidth=1.8 if style == "-" else 1.0,
        elinewidth=0.8,
        label=label,
    )


def _tidy(axis: Axes) -> None:
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    for side in (axis.xaxis, axis.yaxis):
        side.set_minor_locator(NullLocator())
    axis.grid(True, which="both", color="#e4e4e4", linewidth=0.6)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=3, frameon=False, fontsize=8)
