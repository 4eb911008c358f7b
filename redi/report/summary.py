"""One directory of runs, summed up: the tidy table as Parquet and CSV, and a report."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from redi.files import write_durably
from redi.report.markdown import markdown_report
from redi.report.points import POINTS, write_csv, write_points
from redi.report.runs import load_runs
from redi.report.sections import report_sections


class Summary(NamedTuple):
    """What `summarise` wrote."""

    points: Path
    csv: Path
    markdown: Path


def summarise(root: Path) -> Summary:
    """Sum up every finished run at or below `root`, beside them in `root`.

    Runs go by their path below `root`. Each file is replaced as a whole. Raises UsageError where
    there is no finished run, or one that cannot be read.
    """
    runs = load_runs(root)
    points = [point for run in runs for point in run.points]
    paths = Summary(root / POINTS, root / "summary.csv", root / "summary.md")
    write_durably(paths.points, lambda temporary: write_points(points, temporary))
    write_durably(paths.csv, lambda temporary: write_csv(points, temporary))
    text = markdown_report("Summary", report_sections(runs), root)
    write_durably(paths.markdown, lambda temporary: temporary.write_text(text, "utf-8"))
    return paths
