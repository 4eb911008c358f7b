"""Zero-shot stylization: was the content kept, was the style taken, value step by value step."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from redi.report.figures import COLOURS, interval_bars, method_keys, save_png, tidy
from redi.report.labels import CONTENT, FLOORS, STYLE
from redi.report.results import Point, Results
from redi.report.table import distinct


def has_styles(runs: Sequence[Results]) -> bool:
    """Whether ReDi was scored on content and style."""
    return any(_scored(p) for run in runs for p in run.points if p.method == "redi")


def styles_figure(runs: Sequence[Results], key: bool = True) -> Figure:
    """Style score over content score; the numbers beside the points are their value steps."""
    points = distinct([p for run in runs for p in run.points if _scored(p)])
    figure = Figure(figsize=(5.2, 4.4 + 0.9 * key), layout="constrained")
    axis = figure.subplots()
    for method in sorted({p.method for p in points}, key=list(COLOURS).index):
        found = sorted((p for p in points if p.method == method), key=lambda p: p.value_step or 0)
        places = dict.fromkeys(
            (p.values[CONTENT.key].mean, p.values[STYLE.key].mean) for p in found
        )
        if found[0].value_step is not None:
            axis.plot(*zip(*places, strict=True), color=COLOURS[method], linewidth=0.8)
        for point in found:
            across, up = point.values[CONTENT.key], point.values[STYLE.key]
            axis.errorbar(
                across.mean,
                up.mean,
                xerr=interval_bars(across),
                yerr=interval_bars(up),
                color=COLOURS[method],
                marker="o",
                markersize=5,
                elinewidth=0.6,
            )
            if method == "redi":
                axis.annotate(
                    f"v = {point.value_step}",
                    (across.mean, up.mean),
                    xytext=(5, 4),
                    textcoords="offset points",
                    fontsize=8,
                    color=COLOURS[method],
                )
    tidy(axis)
    axis.set_xlabel("content score: share of object, background, size and place")
    axis.set_ylabel("style score: share of pictures in the asked style")
    axis.set_title("content kept, style taken (up and right is better)", fontsize=10)
    if key:
        handles = method_keys(p.method for p in points)
        for handle in handles:
            handle.set(marker="o", linestyle="none")
        figure.legend(
            handles=handles, loc="outside lower center", frameon=False, fontsize=8, ncols=2
        )
    return figure


def styles_plot(runs: Sequence[Results], path: Path) -> bool:
    """Write the plot as a PNG; false where nothing was scored on content and style."""
    if not has_styles(runs):
        return False
    save_png(styles_figure(runs), path)
    return True


def _scored(point: Point) -> bool:
    return point.method not in FLOORS and CONTENT.key in point.values and STYLE.key in point.values
