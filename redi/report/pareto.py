"""Quality against network calls: the fronts and their plot."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from redi.metrics.base import Quality
from redi.metrics.catalogue import qualities
from redi.report.figures import (
    FRONT,
    REAL,
    colour,
    interval_bars,
    key_line,
    method_keys,
    new_figure,
    tidy,
)
from redi.report.labels import REFERENCES, is_rival, rank
from redi.report.points import Point
from redi.report.runs import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

T = TypeVar("T")

_PANEL, _KEY = (3.5, 3.2), 2.7  # inches


def pareto_front(
    points: Sequence[T],
    cost: Callable[[T], float],
    quality: Callable[[T], float],
    higher_is_better: bool,
) -> list[T]:
    """The points that no other dominates, by rising cost.

    One point dominates another where it is no worse in cost and quality and better in one of them,
    so points equal in both stand together.
    """
    sign = 1 if higher_is_better else -1
    front: list[T] = []
    for point in sorted(points, key=lambda p: (cost(p), -sign * quality(p))):
        gain = sign * (quality(point) - quality(front[-1])) if front else 1
        if gain > 0 or (gain == 0 and cost(point) == cost(front[-1])):
            front.append(point)
    return front


def front_of(points: Sequence[Point], metric: Quality) -> list[Point]:
    """The front in calls and one metric, of the points that have it."""
    measured = [p for p in points if metric.name in p.values and p.method not in REFERENCES]
    return pareto_front(
        measured, lambda p: p.calls, lambda p: p.values[metric.name].mean, metric.higher_is_better
    )


def best_plain(points: Sequence[Point], metric: Quality) -> list[Point]:
    """At each number of calls the best of all plain samplers' points, as method `best_plain`."""
    measured = [p for p in points if p.method == "plain" and metric.name in p.values]
    sign = 1 if metric.higher_is_better else -1
    return [
        replace(
            max(
                (p for p in measured if p.calls == number),
                key=lambda p: sign * p.values[metric.name].mean,
            ),
            method="best_plain",
        )
        for number in sorted({p.calls for p in measured})
    ]


def shown_samplers(runs: Sequence[Run]) -> list[str]:
    """Samplers with a front of their own: all, or those that more than plain runs were made of."""
    points = [point for run in runs for point in run.points]
    tried = {row for row, p in _rows(runs) if p.method not in ("full", "plain", *REFERENCES)}
    return sorted(tried or {p.sampler for p in points})


def _rows(runs: Sequence[Run]) -> Iterator[tuple[str, Point]]:
    """Each point with the sampler in whose row it stands: a fitted one in that of its KB."""
    for run in runs:
        full = run.first("full")
        for point in run.points:
            home = full if full is not None and is_rival(point.method) else point
            yield home.sampler, point


def headline(runs: Sequence[Run]) -> list[Quality]:
    """The headline metrics that some point has."""
    points = [point for run in runs for point in run.points]
    return [
        metric
        for metric in qualities().values()
        if metric.headline and any(metric.name in p.values for p in points)
    ]


def pareto_figure(
    runs: Sequence[Run], metrics: Sequence[Quality], samplers: Sequence[str], key: bool = True
) -> Figure:
    """Quality over the calls per image: a row per sampler, a column per metric.

    Points of all runs with intervals as bars, each method's joined by its own line; the Pareto
    front as a broad grey line; references and what real pictures score (where the runs agree on
    it) as level lines. Beside corrected points stand those of the best plain sampler of any name.
    With `key` the legend stands beside the panels.
    """
    width = _PANEL[0] * len(metrics) + _KEY * key
    figure = new_figure((width, _PANEL[1] * len(samplers) + 0.3))
    axes = figure.subplots(len(samplers), len(metrics), sharex="row", squeeze=False)
    points = [point for run in runs for point in run.points]
    for row, sampler in zip(axes, samplers, strict=True):
        own = [point for row_of, point in _rows(runs) if row_of == sampler]
        for axis, metric in zip(row, metrics, strict=True):
            levels = {run.ceiling(metric.name) for run in runs}
            shown = [*own, *(best_plain(points, metric) if _corrected(own) else [])]
            _panel(axis, metric, shown, levels.pop() if len(levels) == 1 else None)
        if len(samplers) > 1:
            row[0].set_ylabel(sampler, fontsize=11, fontweight="bold")
    for axis in axes[-1]:
        axis.set_xlabel("network calls per image")
    if key:
        figure.legend(handles=pareto_keys(runs, samplers), loc="outside right upper", frameon=False)
    return figure


def pareto_keys(runs: Sequence[Run], samplers: Sequence[str]) -> list[Line2D]:
    """Legend entries of `pareto_figure`."""
    points = [point for row, point in _rows(runs) if row in samplers]
    keys = method_keys(point.method for point in points)
    if _corrected(points):
        label = "best plain sampler, same calls"
        keys.insert(2, key_line(label, color=colour("best_plain"), marker="o"))
    keys.append(key_line("Pareto front", color=FRONT, linewidth=5))
    if any(run.ceiling(metric.name) is not None for run in runs for metric in headline(runs)):
        keys.append(key_line("real pictures", color=REAL, linestyle=":"))
    return keys


def _corrected(points: Sequence[Point]) -> bool:
    return any(is_rival(point.method) and point.method != "redi" for point in points)


def _panel(axis: Axes, metric: Quality, points: Sequence[Point], real: float | None) -> None:
    tidy(axis, metric)
    axis.margins(0.07, 0.09)
    front = front_of(points, metric)
    axis.plot(
        [p.calls for p in front],
        [p.values[metric.name].mean for p in front],
        color=FRONT,
        linewidth=5,
        solid_capstyle="round",
        zorder=1,
    )
    if real is not None:
        axis.axhline(real, color=REAL, linestyle=":", linewidth=1)
    for method in sorted({p.method for p in points}, key=rank):
        found = [p for p in points if p.method == method and metric.name in p.values]
        if method in REFERENCES:
            for level in {p.values[metric.name].mean for p in found}:
                axis.axhline(level, color=colour(method), linestyle="--", linewidth=1)
        else:
            _points(axis, metric, found, colour(method), 3 + (method == "redi"))
    axis.set_xlim(0, 1.06 * max((p.calls for p in points), default=1))


def _points(axis: Axes, metric: Quality, found: Sequence[Point], shade: str, layer: float) -> None:
    found = sorted(found, key=lambda p: p.calls)
    values = {(p.calls, p.values[metric.name].mean) for p in found}
    if len({number for number, _ in values}) == len(values):  # one setting at each cost
        axis.plot(*zip(*sorted(values), strict=True), color=shade, linewidth=1, zorder=2)
    for point in found:
        value = point.values[metric.name]
        axis.errorbar(
            point.calls,
            value.mean,
            yerr=interval_bars(value),
            color=shade,
            marker="o",
            markersize=5.5,
            markeredgecolor="white",
            markeredgewidth=0.5,
            elinewidth=1,
            capsize=2,
            linestyle="none",
            zorder=layer,
        )
