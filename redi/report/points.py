"""The tidy table: a row per point, one column per setting and per metric."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeGuard

import pyarrow as pa
import pyarrow.parquet as pq

from redi.report.labels import method_label, significant, with_margin
from redi.text import csv_cell

POINTS = "points.parquet"
_BOUNDS = ("_low", "_high")
_TIMING = ("seconds_", "speedup")


@dataclass(frozen=True)
class Value:
    """A mean and its interval; `low` and `high` are None where no interval was computed."""

    mean: float
    low: float | None = None
    high: float | None = None

    @property
    def margin(self) -> float | None:
        """The longer side of the interval, so that mean ± margin never claims too much."""
        if self.low is None or self.high is None:
            return None
        return max(self.high - self.mean, self.mean - self.low, 0.0)

    def __str__(self) -> str:
        if self.margin is None:
            return significant(self.mean)
        return with_margin(self.mean, self.margin)


@dataclass(frozen=True)
class Point:
    """One method under one setting.

    `entry` joins the point with its pictures and says nothing else; `calls` counts network calls
    per image, `count` the pictures. `details` holds what further describes a method (`levels`),
    `values` what was measured and nothing else.
    """

    experiment: str
    run: str
    entry: str
    method: str
    sampler: str
    steps: int
    calls: float
    count: int
    label: str | None = None
    key_step: int | None = None
    value_step: int | None = None
    kb_size: int | None = None
    neighbours: int | None = None
    estimator: str | None = None
    resume: str | None = None
    noise: str | None = None
    guidance_scale: float | None = None
    seed: int | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    values: Mapping[str, Value] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """What its method is called; only the entry `plain` is the run's own sampler."""
        if self.method == "plain" and self.entry != "plain":
            return "plain sampler"
        return method_label(self.method)

    def mean(self, name: str) -> float | None:
        """The mean of a value, None where it was not computed."""
        value = self.values.get(name)
        return None if value is None else value.mean

    def setting(self, name: str) -> Any:
        """A describing column, None where the method has none."""
        return getattr(self, name) if name in COLUMNS else self.details.get(name)

    def row(self) -> dict[str, Any]:
        """Its columns, `<name>_low` and `<name>_high` after each mean with an interval."""
        row = {name: getattr(self, name) for name in COLUMNS} | dict(self.details)
        for name, value in self.values.items():
            row[name] = value.mean
            if value.low is not None and value.high is not None:
                row |= {f"{name}_low": value.low, f"{name}_high": value.high}
        return row


#: describing columns that every table has
COLUMNS = tuple(f.name for f in fields(Point) if f.name not in ("details", "values"))
_OPTIONAL_COUNTS = ("key_step", "value_step", "kb_size", "neighbours", "seed")
_OPTIONAL_TEXT = ("label", "estimator", "resume", "noise")


def read_point(
    raw: Any, settings: Collection[str], experiment: str, run: str, refuse: Callable[..., Exception]
) -> Point:
    """A point of `results.json`; `settings` names its columns that describe and do not measure.

    A metric that is null or not finite counts as not computed. What is malformed is raised as
    `refuse(field, value, what it should be)`.
    """
    if not isinstance(raw, dict):
        raise refuse("", raw, "an object")

    def check(names: Sequence[str], good: Callable[[Any], bool], wanted: str) -> None:
        for name in names:
            if not good(raw.get(name)):
                raise refuse(f".{name}", raw.get(name), wanted)

    check(("entry", "method", "sampler"), lambda v: isinstance(v, str), "text")
    check(("steps", "count"), _is_count, "a whole number")
    check(_OPTIONAL_COUNTS, lambda v: v is None or _is_count(v), "a whole number or null")
    check(_OPTIONAL_TEXT, lambda v: v is None or isinstance(v, str), "text or null")
    check(("guidance_scale",), lambda v: v is None or is_finite(v), "a number or null")
    check(("calls",), lambda v: is_finite(v) and v >= 0, "calls per image")
    measured = {k: v for k, v in raw.items() if k not in COLUMNS and k not in settings}
    for name, value in measured.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise refuse(f".{name}", value, "a number or null")
    numbers = {name: float(v) for name, v in measured.items() if is_finite(v)}
    own: dict[str, Any] = {name: raw.get(name) for name in COLUMNS}
    own |= {"experiment": experiment, "run": run, "calls": float(raw["calls"])}
    return Point(
        **own,
        details={n: raw[n] for n in settings if n in raw and n not in COLUMNS},
        values={
            name: Value(mean, numbers.get(f"{name}_low"), numbers.get(f"{name}_high"))
            for name, mean in numbers.items()
            if not name.endswith(_BOUNDS)
        },
    )


def distinct(points: Sequence[Point]) -> list[Point]:
    """Leave out what an earlier run already holds, such as the baselines that a sweep shares."""
    kept: dict[tuple[Any, ...], Point] = {}
    for point in points:
        setting = tuple(
            str(value)
            for name, value in point.row().items()
            if name not in ("experiment", "run", "entry", "label") and not name.startswith(_TIMING)
        )
        kept.setdefault(setting, point)
    return list(kept.values())


def write_points(points: Sequence[Point], path: Path) -> None:
    """The table as Parquet."""
    write_rows([point.row() for point in points], path)


def write_rows(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Rows as Parquet; a column of mixed types is written as text."""
    names = dict.fromkeys(name for row in rows for name in row)
    pq.write_table(pa.table({n: _column([row.get(n) for row in rows]) for n in names}), path)


def write_csv(points: Sequence[Point], path: Path) -> None:
    """The table as CSV."""
    rows = [point.row() for point in points]
    names = list(dict.fromkeys(name for row in rows for name in row))
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(map(csv_cell, names))
        writer.writerows([csv_cell(row.get(name)) for name in names] for row in rows)


def is_finite(value: Any) -> TypeGuard[float]:
    """Whether a value of JSON is a number."""
    largest = sys.float_info.max  # a larger whole number is no float
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and -largest <= value <= largest


def _column(values: list[Any]) -> pa.Array:
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return pa.array([None if value is None else str(value) for value in values])


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
