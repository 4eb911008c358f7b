"""Rivals against the best plain sampler with as many calls, over the same prompts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from redi.metrics.intervals import Estimate, bootstrap_mean, bootstrap_statistic
from redi.report.blocks import Block, Cell, Grid, Plot, Text
from redi.report.budget_plots import budgets_figure, growth_figure
from redi.report.compare import RESAMPLES
from redi.report.labels import DASH, is_rival
from redi.report.points import Point
from redi.report.runs import Run

#: measured columns, and what they are errors to
ERRORS = {"latent_error": "its own full run", "latent_error_converged": "the converged run"}
BEST_PLAIN = (
    "The best plain sampler is chosen anew at every number of calls, on the very queries that it "
    "is judged on. Intervals are over prompts, those of ratios paired; a ratio is bold where its "
    "interval stays below one."
)
#: where a run keeps its files: no setting
_PLACES = ("run_dir", "kb.dir", "kb.root", "reference_root")
_EQUAL = 1e-6  # calls


@dataclass(frozen=True)
class Budget:
    """One point and all plain samplers with as many calls; errors have intervals over prompts."""

    point: Point
    plain: Mapping[str, Estimate]  # by sampler
    error: Estimate
    #: its error over that of the best plain sampler, both resampled together
    ratio: Estimate
    #: calls at which the best plain sampler reaches its error; None: more than measured
    calls_to_match: float | None

    @property
    def calls(self) -> int:
        return round(self.point.calls)

    @property
    def best(self) -> str:
        """The plain sampler with the least error, chosen on the very prompts it is judged on."""
        return min(self.plain, key=lambda name: self.plain[name].mean)


def budgets(run: Run, column: str = "latent_error") -> list[Budget]:
    """Every rival of plain sampling beside plain samplers with as many calls, by rising calls."""
    if not run.pictures:
        return []
    values = {p.entry: run.pictures.by_prompt(p.entry, column) for p in run.points}
    plain: dict[float, dict[str, np.ndarray]] = {}
    for point in run.points:
        found = values[point.entry]
        if point.method == "plain" and found is not None:
            plain.setdefault(round(point.calls, 6), {})[point.sampler] = found
    curve = [(n, min(float(v.mean()) for v in plain[n].values())) for n in sorted(plain)]
    result = []
    for point in sorted(run.points, key=lambda p: (p.method, called(p), p.calls)):
        mine = values[point.entry]
        beside = plain.get(round(point.calls, 6))
        if not is_rival(point.method) or mine is None or beside is None:
            continue
        best = min(beside.values(), key=lambda v: float(v.mean()))
        result.append(
            Budget(
                point,
                {name: bootstrap_mean(v, resamples=RESAMPLES) for name, v in beside.items()},
                bootstrap_mean(mine, resamples=RESAMPLES),
                paired_ratio(mine, best),
                _calls_to_match(curve, float(mine.mean())),
            )
        )
    return result


def budgets_blocks(runs: Sequence[Run]) -> list[Block]:
    """Tables of every run in which a rival meets plain samplers at equal calls; none without.

    One run with several budgets makes a figure of the error over the calls; three or more whose KBs
    differ in size make one of the error over that size.
    """
    found = []
    for run in runs:
        rows = {to: its for column, to in ERRORS.items() if (its := budgets(run, column))}
        if rows:
            found.append((run, rows))
    if not found:
        return []
    found.sort(key=lambda one: _trajectories(one[0], one[1]))
    told = settings([run for run, _ in found])
    blocks: list[Block] = [*_figures(found), Text(BEST_PLAIN)]
    for to in ERRORS.values():
        told_rows = [
            (setting, row, kb_calls(run, row.point))
            for setting, (run, its) in zip(told, found, strict=True)
            for row in its.get(to, [])
        ]
        if told_rows:
            blocks.append(budgets_grid(told_rows, f"latent error to {to}"))
    return blocks


def _figures(found: Sequence[tuple[Run, Mapping[str, list[Budget]]]]) -> Iterator[Plot]:
    sizes = [_trajectories(run, rows) for run, rows in found]
    if len(set(sizes)) == len(sizes) >= 3:
        first = [next(iter(rows.values())) for _, rows in found]
        several = [[r for r in rows if r.point.method != "redi"] for rows in first]
        if all(several):
            yield Plot("growth", lambda: growth_figure(sizes, several), dpi=110)
    elif len(found) == 1:
        panels = list(found[0][1].items())
        if max(len({row.calls for row in rows}) for _, rows in panels) > 1:
            yield Plot("budgets", lambda: budgets_figure(panels), dpi=110)


def budgets_grid(rows: Sequence[tuple[str, Budget, int]], title: str = "") -> Grid:
    """Budgets as a table.

    Each comes with the setting that it was measured under ('' where all agree) and the network
    calls behind its KB and corrections; over the calls that an image saves, these make the images
    after which the KB has paid for itself.
    """
    top = max(row.calls for _, row, _ in rows)
    several = any(setting for setting, _, _ in rows)
    methods = len({called(row.point) for _, row, _ in rows}) > 1

    def cells(setting: str, row: Budget, behind: int) -> list[Cell]:
        needs = row.calls_to_match
        saved = (needs or top) - row.calls
        most = "at most " if needs is None else ""
        pays = f"{most}{behind / saved:,.0f} images" if saved > 0 else DASH
        told = f"more than {top} calls" if needs is None else f"{needs:.1f} calls"
        best, ratio = row.plain[row.best], row.ratio
        values = [
            str(row.calls),
            row.best,
            f"{best.mean:.4f} [{best.low:.4f}, {best.high:.4f}]",
            f"{row.error.mean:.4f} [{row.error.low:.4f}, {row.error.high:.4f}]",
            f"{ratio.mean:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]",
            told,
            pays,
        ]
        marked: list[Cell] = [[(v, i == 4 and ratio.high < 1)] for i, v in enumerate(values)]
        names = [setting] * several + [called(row.point)] * methods
        return [*([(name, False)] for name in names), *marked]

    mine = "error" if methods else called(rows[0][1].point)
    headings = ["calls", "best plain sampler", "its error", mine, "ratio", "plain needs"]
    return Grid(
        ["setting"] * several + ["method"] * methods + [*headings, "KB pays after"],
        2 + several + methods,
        [cells(*row) for row in rows],
        title,
    )


def called(point: Point) -> str:
    """What a method is called among others of its name: a fitted solver by all its settings."""
    return point.sampler if point.sampler.split(":")[0] == point.method else point.title


def settings(runs: Sequence[Run]) -> list[str]:
    """What sets the runs apart, in words; '' where there is only one."""
    flat = [dict(_leaves(run.config)) for run in runs]
    keys = sorted({key for config in flat for key in config})
    varied = [k for k in keys if k not in _PLACES and len({str(c.get(k)) for c in flat}) > 1]
    return [", ".join(f"{k.split('.')[-1]} {_short(c.get(k))}" for k in varied) for c in flat]


def kb_calls(run: Run, point: Point) -> int:
    """Network calls behind a KB and the corrections of a budget, trials of levels included."""
    steps, size = run.config.get("sampling", {}).get("steps", 0), point.kb_size or 0
    if (asked := point.setting("fit_calls")) is not None:
        return size * steps + int(asked)
    if point.method != "corrected":
        return size * steps
    correction = run.config.get("correction", {})
    levels, calls = correction.get("levels", []), round(point.calls)
    tried = min(correction.get("trials", 0), size) * len(levels) if len(levels) > 1 else 0
    return size * (steps + calls) + tried * calls


def paired_ratio(mine: np.ndarray, other: np.ndarray) -> Estimate:
    """Mean of `mine` (N,) over the mean of `other` (N,), prompts of both resampled together."""
    return bootstrap_statistic(np.stack([mine, other], 1), _ratio_of_means, resamples=RESAMPLES)


def _ratio_of_means(pairs: np.ndarray) -> float:
    return float(pairs[:, 0].mean() / pairs[:, 1].mean())


def _calls_to_match(curve: Sequence[tuple[float, float]], error: float) -> float | None:
    """Where the plain curve, straight between its points in logarithms, falls to an error."""
    for (few, high), (many, low) in zip(curve[:-1], curve[1:], strict=True):
        if low <= error <= high:
            share = np.log(high / error) / np.log(high / low)
            return float(np.exp(np.log(few) + share * np.log(many / few)))
    return None


def _leaves(config: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def _short(value: Any) -> str:
    text = " + ".join(map(str, value)) if isinstance(value, list) else str(value)
    return "none" if value is None or value == [] else text


def _trajectories(run: Run, rows: Mapping[str, list[Budget]]) -> int:
    """Trajectories of each noise in the KB."""
    size = next((b.point.kb_size for its in rows.values() for b in its if b.point.kb_size), 0)
    noise = run.config.get("noise", {})
    return int(size) // (noise.get("bank_size", 1) if noise.get("policy") == "bank" else 1)
