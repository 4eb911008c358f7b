"""`results.json` of a finished run, as typed points."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from redi.errors import UsageError
from redi.files import read_json
from redi.report.labels import METHODS, significant, with_margin

SCHEMA = 1
RESULTS = "results.json"

_TEXT = ("method", "sampler")
_COUNTS = ("steps", "count")
_SETTING_COUNTS = ("key_step", "value_step", "kb_size", "neighbours", "seed")
_SETTING_TEXT = ("estimator", "resume", "noise_policy", "noise")
_DETAILS = ("levels", "parts")  # lists that no table shows
_KNOWN = (
    *(*_TEXT, *_COUNTS, *_SETTING_COUNTS, *_SETTING_TEXT, *_DETAILS),
    *("nfe", "guidance_scale"),
)
_BOUNDS = ("_low", "_high")


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

    `nfe` counts network calls per image, `count` the pictures. `values` holds what was measured and
    nothing else, by name; the parts of a group are dotted (`prompt_fidelity.object`).
    """

    run: str
    method: str
    sampler: str
    steps: int
    nfe: float
    count: int
    key_step: int | None
    value_step: int | None
    kb_size: int | None
    neighbours: int | None
    estimator: str | None
    resume: str | None
    noise_policy: str | None
    guidance_scale: float | None
    seed: int | None
    values: Mapping[str, Value]

    @property
    def label(self) -> str:
        return METHODS[self.method]

    def mean(self, name: str) -> float | None:
        """The mean of a value, None where it was not computed."""
        value = self.values.get(name)
        return None if value is None else value.mean


@dataclass(frozen=True)
class Results:
    """A finished run; `run` is the name it goes by in tables."""

    run: str
    provenance: dict[str, Any]
    config: dict[str, Any]
    reference: dict[str, Any]
    points: tuple[Point, ...]

    def ceiling(self, name: str) -> float | None:
        """What real pictures score by the same measure, None where that is not known.

        For `prompt_fidelity.<attribute>` it is the evaluator's own accuracy.
        """
        group, _, attribute = name.partition(".")
        source = "evaluator_accuracy" if group == "prompt_fidelity" else "real"
        known = self.reference.get(source)
        value = known.get(attribute or group) if isinstance(known, dict) else None
        return float(value) if _is_finite(value) else None


def find_runs(root: Path) -> list[Path]:
    """Run directories at or below `root`, sorted; a directory without results is still running.

    Raises UsageError where there is none.
    """
    if not root.is_dir():
        raise UsageError(f"directory {str(root)!r} does not exist: give one that holds runs")
    found = sorted(path.parent for path in root.rglob(RESULTS) if _holds_points(path))
    if not found:
        raise UsageError(
            f"directory {str(root)!r} holds no {RESULTS}: give the directory of a finished run "
            "or of a sweep"
        )
    return found


def _holds_points(path: Path) -> bool:
    """Whether a results file is a run's; the one of `redi theory` has bounds and no points."""
    content = read_json(path, "results file") if path.is_file() else None
    return isinstance(content, dict) and "theory" not in content


def load_results(run_dir: Path, run: str | None = None) -> Results:
    """Read a finished run, named `run` (by default as its directory).

    A metric that is null or not finite counts as not computed. Raises UsageError for a directory
    without results, another schema, and a malformed point.
    """
    path = run_dir / RESULTS
    if not path.is_file():
        raise UsageError(
            f"run directory {str(run_dir)!r} holds no {RESULTS}: give the directory of a run that "
            "has finished"
        )
    content = read_json(path, "results file")
    schema = content.get("schema") if isinstance(content, dict) else None
    if schema != SCHEMA:
        raise UsageError(
            f"schema={schema!r} in {str(path)!r} is unknown, this version reads schema {SCHEMA}: "
            "run the evaluation again"
        )
    points = content.get("points")
    if not isinstance(points, list) or not points:
        raise _malformed(path, "points", points, "a list of at least one point")
    name = run if run is not None else run_dir.resolve().name
    return Results(
        name,
        _group(content, "provenance", path),
        _group(content, "config", path),
        _group(content, "reference", path),
        tuple(_point(point, name, path, f"points[{i}]") for i, point in enumerate(points)),
    )


def _point(raw: Any, run: str, path: Path, where: str) -> Point:
    if not isinstance(raw, dict):
        raise _malformed(path, where, raw, "an object")

    def check(name: str, good: bool, wanted: str) -> None:
        if not good:
            raise _malformed(path, f"{where}.{name}", raw.get(name), wanted)

    for name in _TEXT:
        check(name, isinstance(raw.get(name), str), "text")
    check("method", raw["method"] in METHODS, f"one of {', '.join(METHODS)}")
    for name in _COUNTS:
        check(name, _is_count(raw.get(name)), "a whole number")
    for name in _SETTING_COUNTS:
        check(name, raw.get(name) is None or _is_count(raw[name]), "a whole number or null")
    for name in _SETTING_TEXT:
        check(name, raw.get(name) is None or isinstance(raw[name], str), "text or null")
    guidance = raw.get("guidance_scale")
    check("guidance_scale", guidance is None or _is_finite(guidance), "a number or null")
    check("nfe", _is_finite(raw.get("nfe")) and raw["nfe"] >= 0, "calls per image")
    numbers = {name: value for name, value in _flat(raw).items() if name not in _KNOWN}
    for name, value in numbers.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise _malformed(path, f"{where}.{name}", value, "a number or null")
    return Point(
        run=run,
        method=raw["method"],
        sampler=raw["sampler"],
        steps=raw["steps"],
        nfe=float(raw["nfe"]),
        count=raw["count"],
        key_step=raw.get("key_step"),
        value_step=raw.get("value_step"),
        kb_size=raw.get("kb_size"),
        neighbours=raw.get("neighbours"),
        estimator=raw.get("estimator"),
        resume=raw.get("resume"),
        noise_policy=raw.get("noise_policy"),
        guidance_scale=guidance,
        seed=raw.get("seed"),
        values=_values({k: float(v) for k, v in numbers.items() if _is_finite(v)}),
    )


def _flat(raw: dict[str, Any]) -> dict[str, Any]:
    """Dotted names; `prompt_fidelity_low: {object}` becomes `prompt_fidelity.object_low`."""
    flat: dict[str, Any] = {}
    for name, value in raw.items():
        if not isinstance(value, dict):
            flat[name] = value
            continue
        bound = next((end for end in _BOUNDS if name.endswith(end)), "")
        stem = name.removesuffix(bound)
        flat |= {f"{stem}.{part}{bound}": number for part, number in value.items()}
    return flat


def _values(numbers: dict[str, float]) -> dict[str, Value]:
    return {
        name: Value(mean, numbers.get(f"{name}_low"), numbers.get(f"{name}_high"))
        for name, mean in numbers.items()
        if not name.endswith(_BOUNDS)
    }


def _group(content: dict[str, Any], name: str, path: Path) -> dict[str, Any]:
    value = content.get(name)
    if not isinstance(value, dict):
        raise _malformed(path, name, value, "an object")
    return value


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_finite(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _malformed(path: Path, field: str, value: Any, wanted: str) -> UsageError:
    return UsageError(
        f"{field}={value!r} in {str(path)!r} is not {wanted}: run the evaluation again"
    )
