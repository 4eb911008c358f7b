"""A finished run: `results.json` as typed points, with its pictures' table beside it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from redi.errors import UsageError
from redi.reading import read_json
from redi.report.pictures import Pictures
from redi.report.points import Point, is_finite, read_point

SCHEMA = 2
RESULTS = "results.json"


@dataclass(frozen=True)
class Run:
    """A finished run; `name` is what it goes by in tables."""

    name: str
    folder: Path
    provenance: dict[str, Any]
    config: dict[str, Any]
    reference: dict[str, Any]
    points: tuple[Point, ...]
    pictures: Pictures = field(compare=False)

    def first(self, method: str) -> Point | None:
        """The first point of a method."""
        return next((p for p in self.points if p.method == method), None)

    def ceiling(self, name: str) -> float | None:
        """What real pictures score by the same measure, None where that is not known.

        For `prompt_fidelity.<attribute>` it is the evaluator's own accuracy.
        """
        group, _, attribute = name.partition(".")
        source = "evaluator_accuracy" if group == "prompt_fidelity" else "real"
        known = self.reference.get(source)
        value = known.get(attribute or group) if isinstance(known, dict) else None
        return float(value) if is_finite(value) else None


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


def load_runs(root: Path) -> list[Run]:
    """Every finished run at or below `root`, named by its path below it."""
    experiment, found = root.resolve().name, find_runs(root)
    names = [experiment if p == root else p.relative_to(root).as_posix() for p in found]
    return [load_run(p, name, experiment) for p, name in zip(found, names, strict=True)]


def _holds_points(path: Path) -> bool:
    """Whether a results file is a run's; the one of `redi theory` has bounds and no points."""
    content = read_json(path, "results file") if path.is_file() else None
    return isinstance(content, dict) and "theory" not in content


def load_run(folder: Path, name: str | None = None, experiment: str | None = None) -> Run:
    """Read a finished run, named `name` (by default as its directory).

    Raises UsageError for a directory without results, another schema, and a malformed point.
    """
    path = folder / RESULTS
    if not path.is_file():
        raise UsageError(
            f"run directory {str(folder)!r} holds no {RESULTS}: give the directory of a run that "
            "has finished"
        )
    content = read_json(path, "results file")
    schema = content.get("schema") if isinstance(content, dict) else None
    if schema != SCHEMA:
        raise UsageError(
            f"schema={schema!r} in {str(path)!r} is unknown, this version reads schema {SCHEMA}: "
            "run the evaluation again in a new run_dir"
        )

    def refuse(field: str, value: Any, wanted: str) -> UsageError:
        return UsageError(
            f"{field}={value!r} in {str(path)!r} is not {wanted}: run the evaluation again"
        )

    def group(name: str) -> dict[str, Any]:
        if not isinstance(content.get(name), dict):
            raise refuse(name, content.get(name), "an object")
        return content[name]

    points, settings = content.get("points"), content.get("settings")
    if not isinstance(points, list) or not points:
        raise refuse("points", points, "a list of at least one point")
    if not isinstance(settings, list) or not all(isinstance(s, str) for s in settings):
        raise refuse("settings", settings, "a list of column names")
    told = name if name is not None else folder.resolve().name
    return Run(
        told,
        folder,
        group("provenance"),
        group("config"),
        group("reference"),
        tuple(
            read_point(
                point,
                settings,
                experiment or told,
                told,
                lambda field, value, wanted, i=i: refuse(f"points[{i}]{field}", value, wanted),
            )
            for i, point in enumerate(points)
        ),
        Pictures(folder),
    )
