"""Finished runs, from their own directories or from a collection, as typed points with pictures."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from redi.errors import UsageError
from redi.reading import read_json
from redi.report.pictures import Pictures
from redi.report.points import Point, is_finite, read_point

SCHEMA = 2
RESULTS, SHEET = "results.json", "sheet.png"
COLLECTED, COLLECTION = "runs.json", 1


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
    sheet: Path | None = None

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


@dataclass(frozen=True)
class Found:
    """The results of a run as they were read; `name` is its path below the folder asked for."""

    name: str
    folder: Path
    content: Any
    pictures: Pictures = field(compare=False)
    sheet: Path | None = None
    #: how errors name where it stands
    path: Path | None = None


def find_runs(root: Path) -> list[Path]:
    """Run directories at or below `root`, sorted; a directory without results is still running.

    Raises UsageError where there is none.
    """
    found = _folders(root)
    if not found:
        raise _no_runs(root)
    return found


def find_results(root: Path) -> list[Found]:
    """Every finished run at or below `root`, those of collections too.

    A run directory goes before a collected run of the same name. Raises UsageError where there is
    no run.
    """
    found = {}
    for folder in _folders(root):
        one = _in_folder(folder, folder.relative_to(root).as_posix())
        found[one.name] = one
    for path in sorted(root.rglob(COLLECTED)):
        for one in _in_collection(path, path.parent.relative_to(root)):
            found.setdefault(one.name, one)
    if not found:
        raise _no_runs(root)
    return [found[name] for name in sorted(found)]


def _folders(root: Path) -> list[Path]:
    if not root.is_dir():
        raise UsageError(f"directory {str(root)!r} does not exist: give one that holds runs")
    return sorted(path.parent for path in root.rglob(RESULTS) if _holds_points(path))


def _no_runs(root: Path) -> UsageError:
    return UsageError(
        f"directory {str(root)!r} holds no {RESULTS}: give the directory of a finished run "
        "or of a sweep"
    )


def load_runs(root: Path) -> list[Run]:
    """Every finished run at or below `root`, named by its path below it."""
    return [read_run(found, root.resolve().name) for found in find_results(root)]


def load_run(folder: Path, name: str | None = None, experiment: str | None = None) -> Run:
    """Read a finished run, named `name` (by default as its directory).

    Raises UsageError for a directory without results, another schema, and a malformed point.
    """
    if not (folder / RESULTS).is_file():
        raise UsageError(
            f"run directory {str(folder)!r} holds no {RESULTS}: give the directory of a run that "
            "has finished"
        )
    told = name if name is not None else folder.resolve().name
    return read_run(_in_folder(folder, told), experiment or told)


def _in_folder(folder: Path, name: str) -> Found:
    content, sheet = read_json(folder / RESULTS, "results file"), folder / SHEET
    shown = sheet if sheet.is_file() else None
    return Found(name, folder, content, Pictures(folder), shown, folder / RESULTS)


def _in_collection(path: Path, below: Path) -> list[Found]:
    content = read_json(path, "collection of runs")
    schema = content.get("schema") if isinstance(content, dict) else None
    runs = content.get("runs") if isinstance(content, dict) else None
    if schema != COLLECTION or not isinstance(runs, list):
        raise UsageError(
            f"schema={schema!r} in {str(path)!r} is unknown, this version reads schema "
            f"{COLLECTION}: collect the runs again"
        )
    found, folder = [], path.parent
    for run in runs:
        if not isinstance(run, dict) or not isinstance(run.get("name"), str):
            raise UsageError(f"{str(path)!r} has a run without a name: collect the runs again")
        name = run["name"]
        sheet = folder / SHEET
        shown = sheet if content.get("sheet") == name and sheet.is_file() else None
        kept = {key: value for key, value in run.items() if key != "name"}
        told = (below / name).as_posix()
        found.append(Found(told, folder, kept, Pictures(folder, name), shown, path))
    return found


def _holds_points(path: Path) -> bool:
    """Whether a results file is a run's; the one of `redi theory` has bounds and no points."""
    content = read_json(path, "results file") if path.is_file() else None
    return isinstance(content, dict) and "theory" not in content


def read_run(found: Found, experiment: str) -> Run:
    """The results of a run as typed points; it goes by its name, or by that of the experiment.

    Raises UsageError for another schema and a malformed point.
    """
    content, path = found.content, found.path or found.folder
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
    told = experiment if found.name == "." else found.name
    return Run(
        told,
        found.folder,
        group("provenance"),
        group("config"),
        group("reference"),
        tuple(
            read_point(
                point,
                settings,
                experiment,
                told,
                lambda field, value, wanted, i=i: refuse(f"points[{i}]{field}", value, wanted),
            )
            for i, point in enumerate(points)
        ),
        found.pictures,
        found.sheet,
    )
