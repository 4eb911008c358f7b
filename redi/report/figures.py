"""What all plots share: colours, panels, keys, and small PNG files."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from redi.files import write_durably
from redi.metrics.base import Quality
from redi.report.labels import REFERENCES, method_label, rank
from redi.report.points import Value

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

#: Colour-blind safe (Okabe and Ito) for the methods, greys and browns for what stands beside them.
COLOURS = {
    "full": "#000000",
    "plain": "#0072B2",
    "best_plain": "#0B3C6F",
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
#: methods without a colour of their own take these in turn
_FURTHER = ("#332288", "#117733", "#882255", "#999933", "#44AA99", "#AA4499", "#661100")
FRONT, REAL = "#DADADA", "#555555"
_PALETTE = 256


def colour(method: str) -> str:
    """The colour of a method, the same in every figure."""
    return COLOURS.get(method) or _FURTHER[sum(method.encode()) % len(_FURTHER)]


def tidy(axis: Axes, metric: Quality | None = None) -> None:
    """A quiet grid, no box, and the metric with its better direction as title."""
    axis.grid(True, color="#e4e4e4", linewidth=0.6)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    if metric is not None:
        arrow = "higher is better" if metric.higher_is_better else "lower is better"
        axis.set_title(f"{metric.heading}, {arrow}", fontsize=10)


def interval_bars(value: Value) -> list[list[float]] | None:
    """Lengths below and above; a percentile interval need not hold the mean."""
    if value.low is None or value.high is None:
        return None
    return [[max(value.mean - value.low, 0)], [max(value.high - value.mean, 0)]]


def new_figure(size: tuple[float, float]) -> Figure:
    """An empty figure of a width and height in inches; what a table needs is there without it."""
    from matplotlib.figure import Figure

    return Figure(figsize=size, layout="constrained")


def key_line(label: str, **style: Any) -> Line2D:
    """One entry of a legend."""
    from matplotlib.lines import Line2D

    return Line2D([], [], label=label, **style)


def method_keys(present: Iterable[str]) -> list[Line2D]:
    """Legend entries of methods, in the order of the tables; references are dashes."""
    return [
        key_line(
            method_label(name),
            color=colour(name),
            marker="" if name in REFERENCES else "o",
            linestyle="--" if name in REFERENCES else "-",
        )
        for name in sorted(set(present), key=rank)
    ]


def png(figure: Figure, dpi: int) -> bytes:
    """A figure as a palette PNG, a third of the size of full colour."""
    drawn, packed = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, dpi=dpi, format="png")
    picture = Image.open(drawn).convert("RGB")
    picture.quantize(_PALETTE, dither=Image.Dither.NONE).save(packed, "PNG", optimize=True)
    return packed.getvalue()


def save_png(figure: Figure, path: Path, dpi: int = 140) -> None:
    """Write a figure as a palette PNG, as a whole or not at all."""
    content = png(figure, dpi)
    write_durably(path, lambda temporary: temporary.write_bytes(content))
