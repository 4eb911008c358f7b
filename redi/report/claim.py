"""Full quality at what share of the calls? The 2x claim, with an interval over prompts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from redi.metrics.base import Quality
from redi.metrics.catalogue import qualities
from redi.report.blocks import Cell, Grid
from redi.report.compare import Difference, compare
from redi.report.labels import is_rival, method_label, rank
from redi.report.points import Point
from redi.report.runs import Run

_HALF = 0.5 + 1e-9


@dataclass(frozen=True)
class Claim:
    """The smallest share of full sampling's calls at which a method is not inferior to it."""

    sampler: str
    method: str
    quality: Quality
    share: float
    low: float
    high: float

    @property
    def holds(self) -> bool:
        """Whether half of the calls are enough, by the paired interval of the loss itself.

        The interval of the share would count the same uncertainty a second time.
        """
        return self.share <= _HALF

    @property
    def title(self) -> str:
        """What the method is called beside others."""
        if self.method == "plain":
            return "the same sampler with fewer steps"
        return method_label(self.method)

    def __str__(self) -> str:
        return f"{self.share:.2f} ({self.low:.2f} to {self.high:.2f})"


def margins() -> str:
    """The losses that count as none, in words."""
    told = [
        f"{q.title} {f'{100 * q.loss:g}%' if q.relative_loss else f'{q.loss:g}'}"
        for q in qualities().values()
        if q.loss is not None
    ]
    return ", ".join(told)


def claims(runs: Sequence[Run]) -> list[Claim]:
    """Claims per sampler, quality and method: plain sampling of that sampler, ReDi, its rivals.

    A point is enough where the paired interval of its loss against the full run stays within the
    margin of the quality; full sampling always is. The interval of the share is the spread of that
    rule over resampled prompts, with the width of the differences held fixed. Runs whose prompts
    are not those of the first run of their sampler are left out.
    """
    cells: dict[tuple[str, str, str], list[tuple[float, Difference]]] = defaultdict(list)
    spent: dict[str, float] = {}
    prompts: dict[str, tuple[tuple[int, str], ...]] = {}
    for run in runs:
        full = run.first("full")
        if full is None or not run.pictures:
            continue
        if prompts.setdefault(full.sampler, run.pictures.prompts) != run.pictures.prompts:
            continue
        spent[full.sampler] = full.calls
        for quality in qualities().values():
            for point in run.points if quality.loss is not None else ():
                found = compare(run, point, full, quality) if _judged(point, full) else None
                if found is not None:
                    key = full.sampler, point.method, quality.name
                    cells[key].append((point.calls, found))
    return [
        _claim(sampler, method, found, spent[sampler])
        for (sampler, method, _), found in sorted(
            cells.items(), key=lambda one: (one[0][0], _place(one[0][2]), rank(one[0][1]))
        )
    ]


def _judged(point: Point, full: Point) -> bool:
    plain = point.method == "plain" and point.sampler == full.sampler
    return plain or is_rival(point.method)


def _place(name: str) -> int:
    return list(qualities()).index(name)


def sentences(found: Sequence[Claim]) -> list[str]:
    """One sentence per sampler, quality and method beside the same sampler's share."""
    by_key = {(c.sampler, c.quality.name, c.method): c for c in found}
    told = []
    for claim in found:
        if claim.method == "plain":
            continue
        text = (
            f"{claim.title} ({claim.sampler}) keeps full sampling's {claim.quality.title} at "
            f"{claim} of its calls; the claim of 2x {_verdict(claim)} here"
        )
        plain = by_key.get((claim.sampler, claim.quality.name, "plain"))
        if plain is not None:
            text += f", and {plain.title} keeps it at {plain}"
        told.append(text + ".")
    return told


def claims_grid(found: Sequence[Claim]) -> Grid:
    """A row per sampler, quality and method; bold where the claim of half the calls holds."""
    rows: list[list[Cell]] = [
        [
            [(claim.sampler, False)],
            [(claim.quality.title, False)],
            [(claim.title, False)],
            [(str(claim), claim.holds)],
            [(_verdict(claim), claim.holds)],
        ]
        for claim in found
    ]
    return Grid(["sampler", "quality", "method", "share of the calls", "claim of 2x"], 3, rows)


def _verdict(claim: Claim) -> str:
    return "holds" if claim.holds else "is not shown"


def _claim(
    sampler: str, method: str, cells: Sequence[tuple[float, Difference]], full_calls: float
) -> Claim:
    cells = sorted(cells, key=lambda cell: cell[0])
    gains = [difference.gain for _, difference in cells]
    calls = np.array([number for number, _ in cells] + [full_calls])
    slack = np.array(
        [
            low - mean + (d.allowed or 0.0)
            for (mean, low, _), (_, d) in zip(gains, cells, strict=True)
        ]
    )

    def fewest(means: np.ndarray) -> np.ndarray:
        """Share (B,) for mean gains (points, B)."""
        enough = means + slack[:, None] >= 0
        first = np.where(enough.any(0), enough.argmax(0), len(cells))
        return calls[first] / full_calls

    share = float(fewest(np.array([[mean] for mean, _, _ in gains]))[0])
    spread = fewest(np.stack([draws for _, _, draws in gains]))
    low, high = np.quantile(spread, [0.025, 0.975])
    quality = cells[0][1].quality
    return Claim(sampler, method, quality, share, min(float(low), share), max(float(high), share))
