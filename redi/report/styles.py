"""Zero-shot stylization: was the content kept, was the style taken, value step by value step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from redi.report.figures import colour, interval_bars, method_keys, new_figure, tidy
from redi.report.labels import FLOORS, rank
from redi.report.points import Point, distinct
from redi.report.runs import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_CONTENT, _STYLE = "content_score", "style_score"


def has_styles(runs: Sequence[Run]) -> bool:
    """Whether ReDi was scored on content and style."""
    return any(_scored(p) for run in runs for p in run.points if p.method == "redi")


def styles_figure(runs: Sequence[Run], key: bool = True) -> Figure:
    """Style score over content score; the numbers beside the points are their value steps."""
    points = distinct([p for run in runs for p in run.points if _scored(p)])
    figure = new_figure((5.2, 4.4 + 0.9 * key))
    axis = figure.subplots()
    for method in sorted({p.method for p in points}, key=rank):
        found = sorted((p for p in points if p.method == method), key=lambda p: p.value_step or 0)
        places = dict.fromkeys((p.values[_CONTENT].mean, p.values[_STYLE].mean) for p in found)
        if found[0].value_step is not None:
            axis.plot(*zip(*places, strict=True), color=colour(method), linewidth=0.8)
        for point in found:
            across, up = point.values[_CONTENT], point.values[_STYLE]
            axis.errorbar(
                across.mean,
                up.mean,
                xerr=interval_bars(across),
                yerr=interval_bars(up),
                color=colour(method),
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
                    color=colour(method),
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


def _scored(point: Point) -> bool:
    return point.method not in FLOORS and _CONTENT in point.values and _STYLE in point.values
