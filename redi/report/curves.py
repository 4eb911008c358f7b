"""Quality against the setting that a sweep varies: KB size, neighbours, key step, estimator, ..."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from redi.metrics.base import PRESENT, Quality
from redi.metrics.catalogue import qualities
from redi.report.figures import colour, interval_bars, key_line, method_keys, new_figure, tidy
from redi.report.labels import REFERENCES, rank
from redi.report.points import Point, Value
from redi.report.runs import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

#: numbers, drawn as lines; the value step only where one sampler was used, since over several the
#: number of calls says more
NUMBERS = {
    "kb_size": "trajectories in the KB",
    "neighbours": "neighbours",
    "key_step": "key step",
    "value_step": "value step",
}
#: names, drawn side by side
NAMES = {"estimator": "estimator", "noise": "noise"}
_PANEL, _COLUMNS = (4.2, 3.2), 4  # inches
_LINES = ("-", "--", ":", "-.")
_SPREAD = 0.5  # of the gap between two names


@dataclass(frozen=True)
class Variation:
    """What a sweep varies; `ticks` names the places of settings that are no numbers."""

    name: str
    label: str
    ticks: tuple[str, ...] = ()

    def place(self, point: Point) -> float | None:
        """Where a ReDi point stands."""
        if self.ticks:
            return float(self.ticks.index(_told(point, self.name)))
        return getattr(point, self.name)


def variation(runs: Sequence[Run]) -> Variation | None:
    """The first setting with at least three values over the ReDi points of one sampler."""
    points = [p for run in runs for p in run.points if p.method == "redi"]
    samplers = {p.sampler for p in points}

    def values(name: str) -> set:
        return {getattr(p, name) for p in points if p.sampler == min(samplers)} - {None}

    for name, label in NUMBERS.items():
        if len(samplers) == 1 or (samplers and name != "value_step"):
            if len(values(name)) >= 3:
                return Variation(name, label)
    for name, label in NAMES.items():
        if len(samplers) == 1 and len(values(name)) >= 2:
            several = f"{name}+" if len(values("neighbours")) > 1 else name
            ticks = dict.fromkeys(_told(p, several) for p in sorted(points, key=_order))
            return Variation(several, label, tuple(ticks))
    return None


def measured(runs: Sequence[Run]) -> list[Quality]:
    """The metrics that some point has, in the order of the panels."""
    points = [p for run in runs for p in run.points]
    wanted = [m for m in qualities().values() if m.headline or m.shown == PRESENT]
    return [m for m in wanted if any(m.name in p.values for p in points)]


def curves_figure(
    runs: Sequence[Run], varied: Variation, metrics: Sequence[Quality], key: bool = True
) -> Figure:
    """A panel per metric over the varied setting, one line per method and kind of run.

    Kinds differ in the sampler, or in what a sweep varies beside. Methods without the setting of
    their own (the same sampler, say) take that of the ReDi point they stand beside. With `key` the
    legend stands below the panels.
    """
    lines = _lines(runs, varied)
    kinds = _kinds(lines)
    columns = min(len(metrics), _COLUMNS)
    count = -(-len(metrics) // columns)
    size = (_PANEL[0] * columns, _PANEL[1] * count + 0.8 * key)
    figure = new_figure(size)
    axes = list(figure.subplots(count, columns, squeeze=False).flat)
    for axis, metric in zip(axes, metrics, strict=False):
        for i, ((method, kind), points) in enumerate(lines.items()):
            measured_here = [(at, p) for at, p in points if metric.name in p.values]
            found = [(at, p.values[metric.name]) for at, p in sorted(measured_here, key=_place)]
            if found:
                shift = _SPREAD * (i / max(len(lines) - 1, 1) - 0.5) if varied.ticks else 0
                _line(axis, method, _style(kind, kinds), found, varied, shift)
        tidy(axis, metric)
        _scale(axis, varied)
    for axis in axes[len(metrics) :]:
        axis.remove()
    if key:
        figure.legend(
            handles=curves_keys(runs, varied),
            loc="outside lower center",
            frameon=False,
            fontsize=9,
            ncols=max(1, int(size[0] / 2.6)),
        )
    return figure


def curves_keys(runs: Sequence[Run], varied: Variation) -> list[Line2D]:
    """Legend entries of `curves_figure`: methods by colour, kinds of run by their line."""
    lines = _lines(runs, varied)
    kinds = _kinds(lines)
    told = method_keys({method for method, _ in lines})
    if len(kinds) > 1 and not varied.ticks:
        for kind in kinds:
            label = ", ".join(part for part in kind if _differs(part, kinds))
            told.append(key_line(label, color="black", linestyle=_style(kind, kinds)))
    return told


#: sampler, then what else a sweep varies: "estimator paper", say
Kind = tuple[str, ...]


def _kinds(lines: Iterable[tuple[str, Kind]]) -> list[Kind]:
    return sorted({kind for method, kind in lines if method == "redi"})


def _lines(
    runs: Sequence[Run], varied: Variation
) -> dict[tuple[str, Kind], list[tuple[float, Point]]]:
    lines: dict[tuple[str, Kind], list[tuple[float, Point]]] = {}
    beside = _beside([p for run in runs for p in run.points if p.method == "redi"], varied)
    for run in runs:
        own = run.first("redi")
        place = None if own is None else varied.place(own)
        if place is None:
            continue
        for point in run.points:
            values = {name: getattr(point, name) for name in beside}
            named = [f"{_said(name)} {_said(v)}" for name, v in values.items() if v is not None]
            lines.setdefault((point.method, (point.sampler, *named)), []).append((place, point))
    return dict(sorted(lines.items(), key=lambda item: (rank(item[0][0]), item[0][1])))


def _beside(points: Sequence[Point], varied: Variation) -> list[str]:
    """Settings that vary beside the one that is drawn along the axis.

    Numbers that follow from the place and from the other settings are left out, as the value step
    does where a share of the run is skipped.
    """
    along = {varied.name.removesuffix("+")} | ({"neighbours"} if varied.name[-1] == "+" else set())
    names = [name for name in (*NUMBERS, *NAMES) if name not in along]
    names = [name for name in names if len({getattr(p, name) for p in points} - {None}) > 1]
    for name in [name for name in names if name in NUMBERS]:
        others = [other for other in names if other != name]
        found: dict[tuple[object, ...], set[object]] = defaultdict(set)
        for point in points:
            place = varied.place(point), *(getattr(point, other) for other in others)
            found[place].add(getattr(point, name))
        if all(len(values) == 1 for values in found.values()):
            names = others
    return names


def _style(kind: Kind, kinds: Sequence[Kind]) -> str:
    """The line of a kind; a method that is of none takes the first with its sampler."""
    same = [i for i, other in enumerate(kinds) if other == kind]
    same += [i for i, other in enumerate(kinds) if other[0] == kind[0]]
    return _LINES[same[0] % len(_LINES)] if same else "-"


def _differs(part: str, kinds: Sequence[Kind]) -> bool:
    return any(part not in kind for kind in kinds)


def _said(name: object) -> str:
    return str(name).replace("_", " ")


def _line(
    axis: Axes,
    method: str,
    style: str,
    found: Sequence[tuple[float, Value]],
    varied: Variation,
    shift: float,
) -> None:
    bars = [interval_bars(value) or [[0.0], [0.0]] for _, value in found]
    level = method in REFERENCES and not varied.ticks
    axis.errorbar(
        [place + shift for place, _ in found],
        [value.mean for _, value in found],
        yerr=None if level else [[bar[side][0] for bar in bars] for side in (0, 1)],
        color=colour(method),
        linestyle="none" if varied.ticks else "--" if level else style,
        marker="" if level else "o",
        markersize=4,
        capsize=2,
        linewidth=1.2,
        elinewidth=0.8,
    )


def _scale(axis: Axes, varied: Variation) -> None:
    axis.set_xlabel(varied.label)
    if varied.ticks:
        axis.set_xticks(range(len(varied.ticks)), varied.ticks, fontsize=8)
        axis.set_xlim(-0.5, len(varied.ticks) - 0.5)
        axis.grid(False, axis="x")
    elif varied.name in ("kb_size", "neighbours"):
        axis.set_xscale("log", base=2)
        axis.xaxis.set_major_formatter("{x:.0f}")


def _told(point: Point, name: str) -> str:
    told = _said(getattr(point, name.removesuffix("+")))
    return f"{told}\nH = {point.neighbours}" if name.endswith("+") else told


def _order(point: Point) -> tuple[str, str, int]:
    return (point.estimator or "", point.noise or "", point.neighbours or 0)


def _place(found: tuple[float, Point]) -> tuple[float, float]:
    """Along the axis; several points at one place (budgets of one sampler) by their calls."""
    return found[0], found[1].calls
