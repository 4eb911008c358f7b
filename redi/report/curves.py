"""Quality against the one setting that a sweep varies: KB size, neighbours, key or value step."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from redi.files import write_durably
from redi.report.labels import CONTENT, DIVERSITY, HEADLINE, METHODS, STYLE, Metric
from redi.report.pareto import COLOURS, interval_bars
from redi.report.results import Point, Results, Value

SETTINGS = {
    "kb_size": "trajectories in the KB",
    "neighbours": "neighbours",
    "key_step": "key step",
    "value_step": "value step",
}
METRICS = (*HEADLINE, CONTENT, STYLE, DIVERSITY)
_PANEL = (4.2, 3.4)  # inches
_LINES = ("-", "--", ":", "-.")


def varied_setting(runs: Sequence[Results]) -> str | None:
    """The first of `SETTINGS` with at least three values over the ReDi points of a sweep."""
    for name in SETTINGS:
        values = {getattr(p, name) for run in runs for p in run.points if p.method == "redi"}
        if len(values - {None}) >= 3:
            return name
    return None


def measured(runs: Sequence[Results]) -> list[Metric]:
    """The metrics that some point has, in the order of the panels."""
    return [m for m in METRICS if any(m.key in p.values for run in runs for p in run.points)]


def curves_figure(runs: Sequence[Results], metrics: Sequence[Metric]) -> Figure:
    """A panel per metric over the varied setting, one line per method, sampler and estimator.

    Methods without the setting of their own (the same sampler, say) take that of the ReDi point
    they stand beside. Raises ValueError where nothing is varied.
    """
    name = varied_setting(runs)
    if name is None:
        raise ValueError("the runs vary none of " + ", ".join(SETTINGS))
    lines: dict[tuple[str, str, str | None], list[tuple[int, Point]]] = {}
    for run in runs:
        own = next((p for p in run.points if p.method == "redi"), None)
        at: int | None = None if own is None else getattr(own, name)
        if at is None:
            continue
        for point in run.points:
            lines.setdefault((point.method, point.sampler, point.estimator), []).append((at, point))
    told = [len({key[i] for key in lines if key[0] == "redi"}) > 1 for i in range(3)]
    figure = Figure(figsize=(_PANEL[0] * len(metrics), _PANEL[1] + 1.1), layout="constrained")
    for axis, metric in zip(
        figure.subplots(1, len(metrics), squeeze=False)[0], metrics, strict=True
    ):
        for (method, sampler, estimator), points in lines.items():
            found = sorted((at, p.values[metric.key]) for at, p in points if metric.key in p.values)
            if not found:
                continue
            extra = [sampler] * told[1] + [estimator or ""] * told[2]
            style = _LINES[sorted({k[1:] for k in lines}, key=str).index((sampler, estimator)) % 4]
            axis.errorbar(
                [at for at, _ in found],
                [value.mean for _, value in found],
                yerr=list(zip(*(_bars(value) for _, value in found), strict=True)),
                color=COLOURS[method],
                linestyle=style,
                marker="o",
                markersize=4,
                capsize=2,
                linewidth=1.2,
                elinewidth=0.8,
                label=", ".join([METHODS[method], *filter(None, extra)]),
            )
        axis.set_xlabel(SETTINGS[name])
        if name in ("kb_size", "neighbours"):
            axis.set_xscale("log", base=2)
            axis.xaxis.set_major_formatter("{x:.0f}")
        arrow = "higher is better" if metric.higher_is_better else "lower is better"
        axis.set_title(f"{metric.heading}, {arrow}", fontsize=10)
        axis.grid(True, color="#e4e4e4", linewidth=0.6)
        axis.spines[["top", "right"]].set_visible(False)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="outside lower center",
        frameon=False,
        fontsize=8,
        ncols=2 * len(metrics),
    )
    return figure


def curves_plot(runs: Sequence[Results], path: Path) -> bool:
    """Write the curves of a sweep as a PNG; false where it varies no such setting."""
    metrics = measured(runs)
    if varied_setting(runs) is None or not metrics:
        return False
    figure = curves_figure(runs, metrics)
    write_durably(path, lambda temporary: figure.savefig(temporary, dpi=140, format="png"))
    return True


def _bars(value: Value) -> tuple[float, float]:
    bars = interval_bars(value)
    return (0.0, 0.0) if bars is None else (bars[0][0], bars[1][0])
