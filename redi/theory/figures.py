"""Figures of the theory checks (PNG)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter
from torch import Tensor

from redi.theory.bounds import PlugIn
from redi.theory.certificate import certificate, step_map_certificate
from redi.theory.corrected import CorrectedRecord, corrected_bound
from redi.theory.losses import LOSS_TITLES
from redi.theory.observe import Observation

TITLES = {
    "ddim": "DDIM",
    "pndm": "PNDM",
    "dpm_solver": "DPM-Solver-2M",
    "dpm_solver_pp": "DPM-Solver++ 2M",
}
#: Colour-blind safe (Okabe and Ito).
BLUE, ORANGE, GREEN, RED, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#888888"
_COLOURS = (BLUE, ORANGE, GREEN, RED)


def draw_figures(
    block: Mapping[str, Any],
    seen: Mapping[str, Observation],
    constants: Mapping[str, Sequence[PlugIn]],
    out_dir: Path,
) -> None:
    """Write every figure of the `"theory"` block to `out_dir`."""
    _certificate(seen, out_dir / "certificate.png")
    _growth(seen, constants, out_dir / "growth.png")
    _coverage(block["plug_in"], out_dir / "plug_in.png")
    _correlation(block["plug_in"], out_dir / "correlation.png")
    _order(block["order"], out_dir / "order.png")
    _skip(block["conformal"], out_dir / "adaptive_skip.png")


def draw_corrected(records: Mapping[int, CorrectedRecord], path: Path) -> None:
    """Actual error of corrected runs, its bound, and what the KB predicted, per number of calls."""
    figure = Figure(figsize=(3.3 * len(records) + 0.4, 3.6), layout="constrained")
    axes = figure.subplots(1, len(records), sharey=True, squeeze=False)[0]
    for axis, (calls, record) in zip(axes, records.items(), strict=True):
        levels = range(1, calls + 1)
        bound = corrected_bound(record)
        for values, colour, label in (
            (record.error, BLUE, "actual error"),
            (bound, RED, "bound with measured constants"),
        ):
            middle = values[1:].median(1).values
            low, high = (values[1:].quantile(q, dim=1) for q in (0.1, 0.9))
            axis.plot(levels, middle, color=colour, marker="o", markersize=3.5, label=label)
            axis.fill_between(levels, low, high, color=colour, alpha=0.15, linewidth=0)
        predicted = record.correction.predicted_error
        if predicted is not None:
            scale = record.final_norm.median()
            axis.plot(
                [calls],
                [float(predicted.median() * scale)],
                color=GREEN,
                marker="D",
                markersize=7,
                linestyle="none",
                markerfacecolor="none",
                label="predicted from the KB alone",
            )
        axis.set(title=f"{calls} calls", xlabel="calls made", yscale="log")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.grid(True, color="#dddddd", linewidth=0.6)
        axis.set_axisbelow(True)
    axes[0].set_ylabel("distance to the reference, normalised")
    _legend(figure, axes[-1], 3)
    _save(figure, path, "Retrieval-corrected sampling: median and 80% of the queries")


def _panels(names: Sequence[str], ylabel: str, xlabel: str) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(3.3 * len(names) + 0.4, 3.6), layout="constrained")
    axes = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    for axis, name in zip(axes, names, strict=True):
        axis.set_title(TITLES[name], fontsize=11)
        axis.set_xlabel(xlabel)
        axis.grid(True, which="major", color="#dddddd", linewidth=0.6)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel(ylabel)
    return figure, list(axes)


def _save(figure: Figure, path: Path, title: str) -> None:
    figure.suptitle(title, fontsize=12)
    figure.savefig(path, dpi=130)


def _legend(figure: Figure, axis: Axes, columns: int) -> None:
    """One legend for all panels, below them."""
    handles, labels = axis.get_legend_handles_labels()
    legend = figure.legend(
        handles, labels, loc="outside lower center", ncols=columns, frameon=False, fontsize=9
    )
    for handle in legend.legend_handles:
        if isinstance(handle, PathCollection):
            handle.set_sizes([30])
            handle.set_alpha(1)


def _certificate(seen: Mapping[str, Observation], path: Path) -> None:
    figure, axes = _panels(
        list(seen), r"certified bound $B_v$", r"actual distance $\|y_v - y'_v\|$"
    )
    for axis, here in zip(axes, seen.values(), strict=True):
        for record, bound, colour, label in (
            (here.random_pairs, certificate, ORANGE, "recursion (2), random neighbour"),
            (here.pairs, certificate, BLUE, "recursion (2), nearest"),
            (here.pairs, step_map_certificate, GREEN, "step map, nearest"),
        ):
            axis.scatter(
                record.distance[-1],
                bound(record)[-1],
                s=4,
                alpha=0.4,
                color=colour,
                label=label,
                linewidths=0,
            )
        ends = [float(here.pairs.distance[-1].min()), float(here.random_pairs.distance[-1].max())]
        axis.plot(ends, ends, color="black", linewidth=1, label="bound = actual")
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.xaxis.set_minor_formatter(NullFormatter())  # they would overlap
    _legend(figure, axes[0], len(axes) if len(axes) < 3 else 4)
    _save(figure, path, "Certificate: no pair may lie below the line")


def _growth(
    seen: Mapping[str, Observation], constants: Mapping[str, Sequence[PlugIn]], path: Path
) -> None:
    figure, axes = _panels(list(seen), "median over pairs", "step $i$")
    for axis, (name, here) in zip(axes, seen.items(), strict=True):
        first = here.pairs.updates[0].index
        steps = range(first, first + len(here.pairs.updates) + 1)
        plug_in = constants[name][-1]
        lines: tuple[tuple[Tensor, str, str, str], ...] = (
            (here.pairs.distance, "black", "-", r"actual $\Delta_i$"),
            (here.random_pairs.distance, GREY, "--", r"actual $\Delta_i$, random neighbour"),
            (certificate(here.pairs), BLUE, "--", "certificate (2)"),
            (step_map_certificate(here.pairs), BLUE, "-", "certificate, step map"),
            (
                plug_in.pair_bounds(here.pairs, "lipschitz"),
                RED,
                "--",
                f"plug-in (2), quantile {plug_in.quantile:g}",
            ),
            (
                plug_in.pair_bounds(here.pairs, "step_map"),
                RED,
                "-",
                f"plug-in, step map, quantile {plug_in.quantile:g}",
            ),
        )
        for series, colour, style, label in lines:
            middle = series.median(dim=1).values
            axis.plot(steps, middle, style, color=colour, label=label)
        axis.set_yscale("log")
    _legend(figure, axes[0], 3)
    _save(figure, path, "Distance of a pair after the key step, and its bounds")


def _coverage(plug_in: Mapping[str, Any], path: Path) -> None:
    figure = Figure(figsize=(3.3 * len(plug_in) + 0.4, 5.8), layout="constrained")
    grid = figure.subplots(2, len(plug_in), sharex=True, sharey="row", squeeze=False)
    for column, (name, by_step) in enumerate(plug_in.items()):
        steps = [int(v) for v in by_step]
        kinds = [(row["quantile"], row["form"]) for row in next(iter(by_step.values()))["bounds"]]
        quantiles = sorted({quantile for quantile, _ in kinds})
        for number, (quantile, form) in enumerate(kinds):
            finals = [by_step[str(v)]["bounds"][number]["final"] for v in steps]
            colour = _COLOURS[quantiles.index(quantile) % len(_COLOURS)]
            style = "o-" if form == "step_map" else "x--"
            label = f"{form.replace('_', ' ')}, quantile {quantile:g}"
            for row, key in enumerate(("coverage", "tightness_median")):
                grid[row, column].plot(
                    steps, [f[key] for f in finals], style, markersize=4, color=colour, label=label
                )
            grid[1, column].fill_between(
                steps,
                [f["tightness_median"] for f in finals],
                [f["tightness_p90"] for f in finals],
                color=colour,
                alpha=0.12,
                linewidth=0,
            )
        grid[0, column].set_title(TITLES[name], fontsize=11)
        grid[0, column].set_ylim(-0.03, 1.03)
        grid[1, column].set_yscale("log")
        grid[1, column].set_xlabel("value step $v$")
        for axis in grid[:, column]:
            axis.grid(True, color="#dddddd", linewidth=0.6)
            axis.spines[["top", "right"]].set_visible(False)
    grid[0, 0].set_ylabel("share of queries covered")
    grid[1, 0].set_ylabel("bound / actual\n(median to 90th percentile)")
    _legend(figure, grid[0, 0], len(quantiles))
    _save(figure, path, "Plug-in bound on the final latent, disjoint queries")


def _correlation(plug_in: Mapping[str, Any], path: Path) -> None:
    first = next(iter(next(iter(plug_in.values())).values()))
    targets = {"final error": ("correlation",)} | {
        f"loss of {LOSS_TITLES.get(loss, loss)}": ("picture_correlation", loss)
        for loss in first["picture_correlation"]
    }
    size = (max(3.3 * len(plug_in) + 0.4, 6.5), 2.6 * len(targets) + 1)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(len(targets), len(plug_in), sharex=True, sharey=True, squeeze=False)
    styles = {
        "certificate_lipschitz": (BLUE, "x--"),
        "certificate_step_map": (BLUE, "o-"),
        "plug_in_lipschitz": (RED, "x--"),
        "plug_in_step_map": (RED, "o-"),
        "key_distance": (GREEN, "^--"),
        "fit_residual": (ORANGE, "d--"),
    }
    for column, (sampler, by_step) in enumerate(plug_in.items()):
        steps = [int(v) for v in by_step]
        for axis, (target, path_of) in zip(grid[:, column], targets.items(), strict=True):
            for name, (colour, style) in styles.items():
                values = [_within(by_step[str(v)], path_of)[name]["spearman"] for v in steps]
                shown = [float("nan") if value is None else value for value in values]
                label = name.replace("_", " ").replace("plug in", "plug-in")
                axis.plot(steps, shown, style, color=colour, markersize=4, label=label)
            axis.axhline(0, color="black", linewidth=0.8)
            axis.grid(True, color="#dddddd", linewidth=0.6)
            axis.set_axisbelow(True)
            axis.spines[["top", "right"]].set_visible(False)
            axis.xaxis.set_major_locator(MaxNLocator(integer=True))
            if column == 0:
                axis.set_ylabel(f"Spearman correlation\nwith the {target}")
        grid[0, column].set_title(TITLES[sampler], fontsize=11)
        grid[-1, column].set_xlabel("value step $v$")
    _legend(figure, grid[0, 0], 3)
    _save(figure, path, "Which number predicts what a jump costs a query?")


def _within(block: Mapping[str, Any], keys: Sequence[str]) -> Mapping[str, Any]:
    """A block inside of nested blocks."""
    for key in keys:
        block = block[key]
    return block


def _order(order: Mapping[str, Any], path: Path) -> None:
    figure = Figure(figsize=(5.2, 4), layout="constrained")
    axis = figure.subplots()
    for colour, (name, found) in zip(_COLOURS, order.items(), strict=False):
        label = f"{TITLES[name]}: slope {found['slope']:.2f}"
        axis.loglog(found["steps"], found["errors"], "o-", color=colour, label=label, markersize=4)
        axis.set_xticks(found["steps"], [str(n) for n in found["steps"]])
    axis.minorticks_off()
    axis.set_xlabel("steps $N$")
    axis.set_ylabel("relative error after 4/5 of the steps")
    axis.grid(True, which="both", color="#dddddd", linewidth=0.6)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize=9)
    _save(figure, path, "Convergence to the exact solution of one Gaussian")


def _skip(conformal: Mapping[str, Any], path: Path) -> None:
    figure = Figure(figsize=(3.3 * len(conformal) + 0.4, 5.8), layout="constrained")
    grid = figure.subplots(2, len(conformal), sharex=True, sharey="row", squeeze=False)
    colours = {"key_distance": GREEN, "fit_residual": ORANGE, "plug_in": RED}
    for column, (name, found) in enumerate(conformal.items()):
        rate, saved = grid[:, column]
        levels = [row["level"] for row in next(iter(found["scores"].values()))]
        for number, (score, rows) in enumerate(found["scores"].items()):
            places = [level + 0.003 * (number - 1) for level in levels]
            achieved = [row["achieved"] for row in rows]
            spread = [
                [a - row["interval"][0] for a, row in zip(achieved, rows, strict=True)],
                [row["interval"][1] - a for a, row in zip(achieved, rows, strict=True)],
            ]
            label = score.replace("_", " ").replace("plug in", "plug-in")
            rate.errorbar(places, achieved, spread, fmt="o", color=colours[score], markersize=4)
            saved.plot(
                places,
                [row["calls_saved"] for row in rows],
                "o-",
                color=colours[score],
                markersize=4,
                label=label,
            )
        fixed = next(iter(found["scores"].values()))
        saved.plot(
            levels,
            [row["calls_saved_fixed"] for row in fixed],
            "s--",
            color="black",
            markersize=4,
            label="one value step for all, calibrated",
        )
        rate.plot([0, max(levels)], [0, max(levels)], color="black", linewidth=1)
        rate.set_title(TITLES[name], fontsize=11)
        saved.set_xlabel("accepted failure rate")
        for axis in (rate, saved):
            axis.grid(True, color="#dddddd", linewidth=0.6)
            axis.spines[["top", "right"]].set_visible(False)
    grid[0, 0].set_ylabel("achieved failure rate")
    grid[1, 0].set_ylabel("calls saved per query")
    _legend(figure, grid[1, 0], 4)
    _save(figure, path, "Adaptive skip: the points must not lie above the line")
