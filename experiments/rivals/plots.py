"""Plots of the rivals: error over calls, and over the number of trajectories."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from experiments.rivals.points import CORRECTED, ERROR, Where, noises

#: what is shown over the number of trajectories
_GROWN = {
    CORRECTED: "#6A3D9A",
    "olss:levels=oss:states=visited": "#D55E00",
    "dode:base=dpm_solver_pp:levels=oss": "#009E73",
    "dpm_solver_pp": "#0072B2",
}


def errors_plot(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Error over calls: a panel per setting; the best of each kind, every other method in grey."""
    panels = sorted({(r["setting"], r["noise"], r["trajectories"]) for r in rows})
    panels = [at for at in panels if sum(_at(r, at) for r in rows) > 20]
    figure, axes = plt.subplots(
        1, len(panels), figsize=(4.4 * len(panels), 4.2), sharey=True, squeeze=False
    )
    for axis, at in zip(axes[0], panels, strict=True):
        lines: dict[str, list[tuple[int, float]]] = defaultdict(list)
        kind: dict[str, bool] = {}
        for one in sorted((r for r in rows if _at(r, at)), key=lambda r: r["calls"]):
            lines[one["method"]].append((one["calls"], one[ERROR]))
            kind[one["method"]] = one["fitted"]
        whole = [n for n in lines if len(lines[n]) == len(lines[CORRECTED]) and n != CORRECTED]
        shown = [CORRECTED] + [
            min((n for n in whole if kind[n] is fit), key=lambda n: _geometric(lines[n]))
            for fit in (False, True)
        ]
        for name, points in lines.items():
            if name not in shown:
                axis.plot(*zip(*points, strict=True), color="#CCCCCC", lw=0.8, zorder=1)
        for name, colour in zip(shown, ("#6A3D9A", "#0072B2", "#D55E00"), strict=True):
            axis.plot(*zip(*lines[name], strict=True), color=colour, marker="o", ms=4, label=name)
        axis.set(
            xscale="log",
            yscale="log",
            xlabel="network calls",
            title=f"{at[0]}, {noises(at[1])}, {at[2]} trajectories",
        )
        ticks = sorted({n for points in lines.values() for n, _ in points})
        axis.set_xticks(ticks, [str(n) for n in ticks])
        axis.minorticks_off()
        axis.set_ylim(0.05, 1.2)
        axis.set_yticks([0.05, 0.1, 0.2, 0.5, 1], ["0.05", "0.1", "0.2", "0.5", "1"])
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
        axis.title.set_fontsize(9)
    axes[0][0].set_ylabel("latent error to the converged run")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def growth_plot(rows: Sequence[dict[str, Any]], path: Path, calls: int = 5) -> None:
    """Error over the number of trajectories, on unseen noises at the hard setting."""
    here = [r for r in rows if (r["setting"], r["noise"]) == ("hard", "unseen")]
    mine = [r for r in here if r["calls"] == calls]
    lines: dict[str, dict[int, float]] = defaultdict(dict)
    for one in mine:
        lines[one["method"]][one["trajectories"]] = one[ERROR]
    most = max(len(found) for found in lines.values())
    figure, axis = plt.subplots(figsize=(5.2, 3.8))
    for name, colour in _GROWN.items():
        found = sorted(lines.get(name, {}).items())
        if len(found) == most:
            axis.plot(*zip(*found, strict=True), color=colour, marker="o", ms=4, label=name)
    ticks = sorted({r["trajectories"] for r in mine})
    axis.set(
        xscale="log",
        xlabel="trajectories that it was fitted to",
        ylabel="latent error to the converged run",
        title=f"{calls} calls, guidance 7.5, unseen noises",
    )
    axis.set_xticks(ticks, [str(n) for n in ticks])
    axis.minorticks_off()
    axis.set_ylim(bottom=0)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    axis.title.set_fontsize(9)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _at(one: dict[str, Any], at: Where) -> bool:
    return (one["setting"], one["noise"], one["trajectories"]) == at


def _geometric(points: Sequence[tuple[int, float]]) -> float:
    return float(np.mean([np.log(error) for _, error in points]))
