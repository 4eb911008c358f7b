"""Quality against network calls: the fronts and their plot."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, TypeVar

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from redi.errors import UsageError
from redi.files import write_durably
from redi.report.labels import HEADLINE, METHODS, OBJECT_FIDELITY, REFERENCES, Metric
from redi.report.results import Point, Results, Value

T = TypeVar("T")
Legend = Literal["outside right upper", "outside lower center"]

#: Colour-blind safe (Okabe and Ito); colour tells the method, shape and dashes the sampler.
COLOURS = {
    "full": "#000000",
    "plain": "#0072B2",
    "redi": "#D55E00",
    "corrected": "#6A3D9A",
    "jump": "#56B4E9",
    "random": "#E69F00",
    "prompt": "#CC79A7",
    "neighbour": "#009E73",
    "both": "#B09A00",
    "switch": "#7A5195",
    "content": "#A05D38",
    "other_noise": "#8C8C8C",
    "other_precision": "#BDBDBD",
}
_MARKERS = ("o", "s", "^", "D", "v", "P")
_DASHES: tuple[Literal["-", "--", ":", "-."], ...] = ("-", "--", ":", "-.")
_FRONT, _REAL = "#777777", "#999999"
_PANEL, _LEGEND = (3.5, 3.5), 2.7  # inches


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


def front_of(points: Sequence[Point], metric: Metric) -> list[Point]:
    """The front in calls and one metric, of the points that have it."""
    measured = [p for p in points if metric.key in p.values and p.method not in REFERENCES]
    return pareto_front(
        measured, lambda p: p.nfe, lambda p: p.values[metric.key].mean, metric.higher_is_better
    )


def pareto_plot(results: list[Results], path: Path) -> None:
    """Write a PNG with a panel per headline metric that any point has, over the calls per image.

    Raises UsageError where no point has any of the metrics.
    """
    points = [point for run in results for point in run.points]
    metrics = [m for m in HEADLINE if any(m.key in p.values for p in points)]
    if not metrics:
        wanted = ", ".join(m.key for m in HEADLINE)
        raise UsageError(f"points have none of {wanted}: evaluate with at least one of them")
    figure = pareto_figure(results, metrics)
    write_durably(path, lambda temporary: figure.savefig(temporary, dpi=140, format="png"))


def pareto_figure(
    results: list[Results], metrics: Sequence[Metric], legend: Legend = "outside right upper"
) -> Figure:
    """A panel per metric over the calls per image.

    Points of all runs; a front line for each sampler; intervals as error bars; the score of real
    pictures, where the runs agree on it, as a dotted line. The legend stands beside the panels, or
    with `outside lower center` below them.
    """
    points = [point for run in results for point in run.points]
    samplers = sorted({p.sampler for p in points})
    handles = _handles(points, samplers)
    beside = "right" in legend
    width = _PANEL[0] * len(metrics) + (_LEGEND if beside else 0.7)
    height = _PANEL[1] + (0 if beside else 0.18 * len(handles) / 2 + 0.2)
    figure = Figure(figsize=(width, height), layout="constrained")
    for axis, metric in zip(
        figure.subplots(1, len(metrics), sharex=True, squeeze=False)[0], metrics, strict=True
    ):
        _panel(axis, metric, points, samplers)
        real = {run.ceiling(metric.key) for run in results}
        if len(real) == 1 and (level := real.pop()) is not None:
            axis.axhline(level, color=_REAL, linestyle=(0, (1, 2)), linewidth=1)
            axis.annotate(
                "evaluator's own accuracy" if metric == OBJECT_FIDELITY else "real pictures",
                (0.02, level),
                xycoords=("axes fraction", "data"),
                xytext=(0, 2),
                textcoords="offset points",
                fontsize=7,
                color=_REAL,
            )
    figure.legend(
        handles=handles,
        loc=legend,
        frameon=False,
        fontsize=8.5 if beside else 7.5,
        ncols=1 if beside else 2,
    )
    return figure


def _panel(axis: Axes, metric: Metric, points: Sequence[Point], samplers: Sequence[str]) -> None:
    axis.set_xlabel("network calls per image")
    arrow = "higher is better" if metric.higher_is_better else "lower is better"
    axis.set_title(f"{metric.heading}, {arrow}", fontsize=10)
    axis.grid(True, color="#e4e4e4", linewidth=0.6)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    axis.margins(0.07, 0.09)
    for i, sampler in enumerate(samplers):
        own = [p for p in points if p.sampler == sampler]
        front = front_of(own, metric)
        axis.plot(
            [p.nfe for p in front],
            [p.values[metric.key].mean for p in front],
            color=_FRONT,
            linestyle=_DASHES[i % len(_DASHES)],
            linewidth=1.2,
        )
        for point in own:
            if (value := point.values.get(metric.key)) is None:
                continue
            axis.errorbar(
                point.nfe,
                value.mean,
                yerr=interval_bars(value),
                color=COLOURS[point.method],
                marker=_MARKERS[i % len(_MARKERS)],
                markersize=5.5,
                markeredgecolor="white",
                markeredgewidth=0.5,
                elinewidth=1,
                capsize=2,
                linestyle="none",
                zorder=3 + (point.method == "redi"),
            )
    axis.set_xlim(0, 1.06 * max(p.nfe for p in points))


def interval_bars(value: Value) -> list[list[float]] | None:
    """Lengths below and above; a percentile interval need not hold the mean."""
    if value.low is None or value.high is None:
        return None
    return [[max(value.mean - value.low, 0)], [max(value.high - value.mean, 0)]]


def _handles(points: Sequence[Point], samplers: Sequence[str]) -> list[Line2D]:
    present = [method for method in METHODS if any(p.method == method for p in points)]
    methods = [
        Line2D([], [], color=COLOURS[m], marker="o", linestyle="none", label=METHODS[m])
        for m in present
    ]
    fronts = [
        Line2D(
            [],
            [],
            color=_FRONT,
            marker=_MARKERS[i % len(_MARKERS)],
            markersize=5,
            linestyle=_DASHES[i % len(_DASHES)],
            label=f"{sampler}, Pareto front",
        )
        for i, sampler in enumerate(samplers)
    ]
    return methods + fronts
