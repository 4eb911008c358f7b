"""Full quality at what share of the calls? The 2x claim, with an interval over prompts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from redi.metrics.intervals import bootstrap_mean
from redi.report.labels import DASH, METHODS
from redi.report.results import Results
from redi.report.table import Cell, Grid

TABLE = "per_image.parquet"
_QUALITIES = {"clip_score": "CLIP score", "correct_all": "prompt fidelity (all attributes)"}
_RESAMPLES = 1000
_HALF = 0.5 + 1e-9


@dataclass(frozen=True)
class Claim:
    """The smallest share of full sampling's calls at which a method is not shown to be worse."""

    sampler: str
    method: str
    quality: str
    share: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.share:.2f} ({self.low:.2f} to {self.high:.2f})"


@dataclass(frozen=True)
class _Cell:
    calls: float
    gap: np.ndarray  # (P,) quality less that of the full run, mean over a prompt's noises


def claims(runs: Sequence[tuple[Path, Results]]) -> list[Claim]:
    """Claims for ReDi and for the same sampler with fewer steps, per sampler and quality.

    A point is enough where the paired bootstrap interval of its difference to the full run reaches
    zero; full sampling always is. The interval of the share is the spread of that rule over
    resampled prompts, with the margins of the difference held fixed. Runs whose prompts are not
    those of the first run of their sampler are left out.
    """
    cells: dict[tuple[str, str, str], list[_Cell]] = defaultdict(list)
    full: dict[str, float] = {}
    prompts: dict[str, tuple[str, ...]] = {}
    for folder, results in runs:
        if not (folder / TABLE).is_file():
            continue
        sampler = results.points[0].sampler
        rows = pq.read_table(folder / TABLE).to_pylist()
        mine = tuple(sorted({row["prompt"] for row in rows}))
        if prompts.setdefault(sampler, mine) != mine:
            continue
        for quality in _QUALITIES:
            reference = _by_prompt(rows, "full", quality)
            for point in results.points:
                if point.method == "full":
                    full[sampler] = point.nfe
                values = _by_prompt(rows, point.method, quality)
                if (
                    point.method in ("redi", "plain")
                    and values is not None
                    and reference is not None
                ):
                    cell = _Cell(point.nfe, values - reference)
                    cells[sampler, point.method, quality].append(cell)
    return [
        _claim(sampler, method, quality, found, full[sampler])
        for (sampler, method, quality), found in cells.items()
        if sampler in full and len(found[0].gap) >= 2
    ]


def sentences(found: Sequence[Claim]) -> list[str]:
    """One sentence per sampler and quality: ReDi's share, the same sampler's, and the verdict."""
    by_key = {(c.sampler, c.quality, c.method): c for c in found}
    told = []
    for (sampler, quality, method), claim in by_key.items():
        if method != "redi":
            continue
        verdict = "holds" if claim.high <= _HALF else "is not shown"
        text = (
            f"{METHODS['redi']} ({sampler}) reaches full sampling's {_QUALITIES[quality]} at "
            f"{claim} of its calls; the claim of 2x {verdict} here"
        )
        plain = by_key.get((sampler, quality, "plain"))
        if plain is not None:
            text += f", and the same sampler with fewer steps reaches it at {plain}"
        told.append(text + ".")
    return told


def claims_grid(found: Sequence[Claim]) -> Grid:
    """A row per sampler and quality; bold where the claim of half the calls holds."""
    by_key = {(c.sampler, c.quality, c.method): c for c in found}
    rows: list[list[Cell]] = []
    for sampler, quality in dict.fromkeys((c.sampler, c.quality) for c in found):
        ours, plain = (by_key.get((sampler, quality, method)) for method in ("redi", "plain"))
        holds = ours is not None and ours.high <= _HALF
        verdict = DASH if ours is None else "holds" if holds else "is not shown"
        rows.append(
            [
                [(sampler, False)],
                [(_QUALITIES[quality], False)],
                [(DASH if ours is None else str(ours), holds)],
                [(DASH if plain is None else str(plain), False)],
                [(verdict, holds)],
            ]
        )
    headings = ["sampler", "quality", METHODS["redi"], "same sampler, fewer steps", "claim of 2x"]
    return Grid(headings, 2, rows)


def _by_prompt(rows: Sequence[dict], method: str, quality: str) -> np.ndarray | None:
    values: dict[int, list[float]] = defaultdict(list)
    for row in rows:
        if row["method"] == method and row.get(quality) is not None:
            values[row["query"]].append(row[quality])
    return np.array([np.mean(values[query]) for query in sorted(values)]) if values else None


def _claim(
    sampler: str, method: str, quality: str, cells: Sequence[_Cell], full_calls: float
) -> Claim:
    cells = sorted(cells, key=lambda cell: cell.calls)
    gaps = np.stack([cell.gap for cell in cells])  # (points, P)
    calls = np.array([cell.calls for cell in cells] + [full_calls])
    margins = np.array([(e := bootstrap_mean(gap)).high - e.mean for gap in gaps])

    def fewest(means: np.ndarray) -> np.ndarray:
        """Share (B,) for mean differences (points, B)."""
        enough = means + margins[:, None] >= 0
        first = np.where(enough.any(0), enough.argmax(0), len(cells))
        return calls[first] / full_calls

    count = gaps.shape[1]
    drawn = np.random.default_rng(0).integers(count, size=(_RESAMPLES, count))
    share = float(fewest(gaps.mean(1, keepdims=True))[0])
    low, high = np.quantile(fewest(gaps[:, drawn].mean(2)), [0.025, 0.975])
    return Claim(sampler, method, quality, share, min(float(low), share), max(float(high), share))
