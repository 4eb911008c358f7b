"""Rows of points.parquet: every method at every number of calls of every finished run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from experiments.rivals import printed
from redi.report.budgets import called
from redi.report.points import Point
from redi.report.runs import Run, load_runs

HERE = Path(__file__).resolve().parent
ERROR = "latent_error_converged"
SETTINGS = {2.5: "moderate", 7.5: "hard"}
CORRECTED = "corrected"
Where = tuple[str, str, int]  # setting, noise, trajectories


def runs(column: str = ERROR) -> list[Run]:
    """The finished runs that have a column; by default those held against a converged run."""
    return [run for run in load_runs(HERE) if any(column in p.values for p in run.points)]


def where(run: Run) -> Where:
    """The setting of a run, its noise, and how many trajectories its fits had."""
    scale = run.config["sampling"]["guidance_scale"]
    noise = "bank" if run.config["noise"]["policy"] == "bank" else "unseen"
    return SETTINGS.get(scale, f"guidance {scale:g}"), noise, run.config["kb"]["size"]


def noises(noise: str) -> str:
    """Which noises queries start from, in words."""
    return "noises of the KB" if noise == "bank" else "unseen noises"


def budgeted(run: Run) -> list[Point]:
    """The points of a run that a budget was set for."""
    budgets = run.config["correction"]["calls"]
    named = ("plain@", "corrected@")
    return [p for p in run.points if p.entry.startswith(named) and round(p.calls) in budgets]


def title(point: Point) -> str:
    """What a method is called in every table."""
    if point.method == CORRECTED:
        return CORRECTED
    return point.sampler if point.method == "plain" else called(point)


def is_fitted(point: Point) -> bool:
    """Whether something was fitted to the model's own trajectories."""
    return point.setting("fit_calls") is not None


def row(run: Run, point: Point) -> dict[str, Any]:
    """One row of points.parquet."""
    setting, noise, trajectories = where(run)
    value = point.values[ERROR]
    return {
        "setting": setting,
        "guidance": run.config["sampling"]["guidance_scale"],
        "noise": noise,
        "trajectories": trajectories,
        "method": title(point),
        "fitted": is_fitted(point),
        "calls": round(point.calls),
        "passes": 2 * round(point.calls),  # a guided call is two
        ERROR: value.mean,
        f"{ERROR}_low": value.low,
        f"{ERROR}_high": value.high,
        "latent_error_median": point.mean("latent_error_median"),
        "latent_error_p90": point.mean("latent_error_p90"),
        "latent_error": point.mean("latent_error"),
        "predicted_latent_error": point.setting("predicted_latent_error"),
        "fit_calls": point.setting("fit_calls"),
        "fit_seconds": point.setting("fit_seconds"),
        "fit_numbers": point.setting("fit_numbers"),
        "levels": point.setting("levels"),
        "overhead": _overhead(point),
        "prompts": run.config["data"]["num_queries"],
        "noises": run.config["data"]["repeats"],
        "run": run.name,
    }


def _overhead(point: Point) -> float | None:
    """Seconds beside the network, as a share of those in it."""
    network = point.mean("seconds_network")
    beside = [point.mean(name) for name in ("seconds_retrieval", "seconds_rest")]
    known = [seconds for seconds in beside if seconds is not None]
    return sum(known) / network if network and known else None


def printed_rows() -> Iterator[dict[str, Any]]:
    """Rows of the points of which only the printed table is left."""
    for path in sorted((HERE / "printed").glob("*.txt")):
        setting, budget = path.stem.split("-")
        for one in printed.rows(path):
            corrected = one["method"].startswith("retrieval")
            named = one["sampler"].split(":")[0].replace("_", " ") == one["method"]
            plain = one["method"].startswith("same sampler")
            if one["calls"] != int(budget) or not (corrected or named or plain):
                continue
            yield {
                "setting": setting,
                "guidance": {v: k for k, v in SETTINGS.items()}[setting],
                "noise": "unseen",
                "trajectories": 192,
                "method": CORRECTED if corrected else one["sampler"],
                "fitted": not plain or one["sampler"].endswith((":oss", ":gits", ":gits_l2")),
                "calls": one["calls"],
                "passes": 2 * one["calls"],
                ERROR: one["error"],
                f"{ERROR}_low": one["error"] - one["margin"],
                f"{ERROR}_high": one["error"] + one["margin"],
                "prompts": 96,
                "noises": 3,
                "run": f"printed/{path.name}",
            }
