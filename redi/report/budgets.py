"""Corrected sampling against the best plain sampler with as many calls, picture by picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from redi.metrics.intervals import Estimate, bootstrap_mean, bootstrap_statistic
from redi.report.labels import DASH
from redi.report.table import Cell, Grid

#: measured columns, and what they are errors to
ERRORS = {"latent_error": "its own full run", "latent_error_converged": "the converged run"}
_RESAMPLES = 1000


@dataclass(frozen=True)
class Budget:
    """One number of calls; errors are means over pictures with intervals over prompts."""

    calls: int
    plain: dict[str, Estimate]  # by sampler
    corrected: Estimate
    #: corrected over the best plain sampler, both resampled together
    ratio: Estimate
    #: calls at which the best plain sampler reaches the corrected error; None: more than measured
    calls_to_match: float | None

    @property
    def best(self) -> str:
        """The plain sampler with the least error, chosen on the very prompts it is judged on."""
        return min(self.plain, key=lambda name: self.plain[name].mean)


def budgets(run_dir: Path, column: str = "latent_error") -> list[Budget]:
    """Every budget of a run's corrected points; none where the run has no such column."""
    table = pq.read_table(run_dir / "per_image.parquet").to_pydict()
    if column not in table:
        return []
    values = by_method(table, column)
    told = [name.split("@")[1] for name in values if name.startswith("corrected@")]
    found = sorted(int(calls) for calls in told if calls.isdigit())
    plain = {
        calls: {
            name.split(":", 1)[1]: rows
            for name, rows in values.items()
            if name.startswith(f"plain@{calls}:")
        }
        for calls in found
    }
    found = [calls for calls in found if plain[calls]]
    curve = [(calls, min(float(rows.mean()) for rows in plain[calls].values())) for calls in found]
    result = []
    for calls in found:
        mine, best = values[f"corrected@{calls}"], min(plain[calls].values(), key=np.mean)
        result.append(
            Budget(
                calls,
                {n: bootstrap_mean(r, resamples=_RESAMPLES) for n, r in plain[calls].items()},
                bootstrap_mean(mine, resamples=_RESAMPLES),
                paired_ratio(mine, best),
                _calls_to_match(curve, float(mine.mean())),
            )
        )
    return result


def budgets_grid(rows: Sequence[tuple[str, Budget, int]]) -> Grid:
    """Budgets as a table.

    Each comes with the setting that it was measured under ('' where all agree) and the network
    calls behind its KB and corrections; over the calls that an image saves, these make the images
    after which the KB has paid for itself.
    """
    top = max(row.calls for _, row, _ in rows)
    several = any(setting for setting, _, _ in rows)

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
            f"{row.corrected.mean:.4f} [{row.corrected.low:.4f}, {row.corrected.high:.4f}]",
            f"{ratio.mean:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]",
            told,
            pays,
        ]
        marked: list[Cell] = [[(v, i == 4 and ratio.high < 1)] for i, v in enumerate(values)]
        return [[(setting, False)], *marked] if several else marked

    headings = ["calls", "best plain sampler", "its error", "corrected", "ratio", "plain needs"]
    return Grid(
        ["setting"] * several + [*headings, "KB pays after"],
        2 + several,
        [cells(*row) for row in rows],
    )


@dataclass(frozen=True)
class PowerLaw:
    """`error = scale * size ** -exponent`, least squares in logarithms."""

    scale: float
    exponent: float

    def __call__(self, size: float) -> float:
        return self.scale * size**-self.exponent


def power_law(sizes: Sequence[int], errors: Sequence[float]) -> PowerLaw:
    """The law through at least two sizes."""
    slope, offset = np.polyfit(np.log(sizes), np.log(errors), 1)
    return PowerLaw(float(np.exp(offset)), float(-slope))


def by_method(table: dict[str, list[float]], column: str) -> dict[str, np.ndarray]:
    """Means over each prompt's noises, prompts in order, by method."""
    rows: dict[str, dict[float, list[float]]] = {}
    for method, query, value in zip(table["method"], table["query"], table[column], strict=True):
        if value is not None:
            rows.setdefault(str(method), {}).setdefault(query, []).append(value)
    return {
        method: np.array([np.mean(found[query]) for query in sorted(found)])
        for method, found in rows.items()
    }


def paired_ratio(mine: np.ndarray, other: np.ndarray) -> Estimate:
    """Mean of `mine` (N,) over the mean of `other` (N,), prompts of both resampled together."""
    return bootstrap_statistic(np.stack([mine, other], 1), _ratio_of_means, resamples=_RESAMPLES)


def _ratio_of_means(pairs: np.ndarray) -> float:
    return float(pairs[:, 0].mean() / pairs[:, 1].mean())


def _calls_to_match(curve: Sequence[tuple[int, float]], error: float) -> float | None:
    """Where the plain curve, straight between its points in logarithms, falls to an error."""
    for (few, high), (many, low) in zip(curve[:-1], curve[1:], strict=True):
        if low <= error <= high:
            share = np.log(high / error) / np.log(high / low)
            return float(np.exp(np.log(few) + share * np.log(many / few)))
    return None
