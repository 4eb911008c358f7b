"""One directory of runs, summed up: JSON, CSV, Markdown and the Pareto plot."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

from redi.files import write_durably, write_json
from redi.report.claim import claims, sentences
from redi.report.corrected import BEST_PLAIN, corrected_report
from redi.report.curves import curves_plot
from redi.report.figures import save_png
from redi.report.labels import DASH, HEADLINE, METHODS, calls
from redi.report.pareto import front_of, pareto_plot
from redi.report.results import Point, Results, find_runs, load_results
from redi.report.styles import styles_plot
from redi.report.table import NOTE, Grid, distinct, markdown_grid, markdown_points
from redi.report.verdict import calls_at_full_quality, verdicts

SCHEMA = 1


class Summary(NamedTuple):
    """What `summarise` wrote."""

    json: Path
    csv: Path
    markdown: Path
    plot: Path


def summarise(root: Path) -> Summary:
    """Sum up every finished run at or below `root`, beside them in `root`.

    Runs go by their path below `root`. Each file is replaced as a whole. Raises UsageError where
    there is no finished run, or one that cannot be read.
    """
    runs = [load_results(path, _name(path, root)) for path in find_runs(root)]
    paths = Summary(
        root / "summary.json", root / "summary.csv", root / "summary.md", root / "pareto.png"
    )
    pareto_plot(runs, paths.plot)
    further = [
        name
        for name, plot in (("curves.png", curves_plot), ("styles.png", styles_plot))
        if plot(runs, root / name)
    ]
    write_json(paths.json, _json(runs))
    rows = [_row(run, point) for run in runs for point in run.points]
    write_durably(paths.csv, lambda temporary: _write_csv(temporary, rows))
    named = list(zip(find_runs(root), runs, strict=True))
    corrected = corrected_report(named)
    plots = [paths.plot.name, *further]
    for name, figure in corrected.figures.items():
        plots.append(f"{name}.png")
        save_png(figure, root / plots[-1], 110)
    text = _markdown(runs, plots, sentences(claims(named)), corrected.tables)
    write_durably(paths.markdown, lambda temporary: _write_text(temporary, text))
    return paths


def _name(path: Path, root: Path) -> str:
    return root.resolve().name if path == root else path.relative_to(root).as_posix()


def _json(runs: Sequence[Results]) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "runs": [
            {
                "run": run.run,
                "provenance": run.provenance,
                "config": run.config,
                "reference": run.reference,
                "verdicts": verdicts(run),
                "points": [_row(run, point) for point in run.points],
            }
            for run in runs
        ],
        "fronts": {
            sampler: {
                metric.key: [
                    {"run": p.run, "method": p.method, "nfe": p.nfe, "value": p.mean(metric.key)}
                    for p in front_of(points, metric)
                ]
                for metric in HEADLINE
            }
            for sampler, points in _by_sampler(runs).items()
        },
    }


def _row(run: Results, point: Point) -> dict[str, Any]:
    """A point as one flat row, `<name>_low` and `<name>_high` after each mean."""
    row = {f.name: getattr(point, f.name) for f in fields(point) if f.name != "values"}
    row["config_hash"] = run.provenance.get("config_hash")
    for name, value in point.values.items():
        row[name] = value.mean
        if value.low is not None and value.high is not None:
            row |= {f"{name}_low": value.low, f"{name}_high": value.high}
    return row


def _write_csv(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, "utf-8")


def _markdown(
    runs: Sequence[Results], plots: Sequence[str], told: Sequence[str], tables: dict[str, Grid]
) -> str:
    several = len(runs) > 1
    count = f"{len(runs)} finished run{'s' if several else ''}."
    parts = ["# Summary", f"{count} {NOTE}", *(f"![{Path(p).stem}]({p})" for p in plots)]
    parts += ["\n".join(f"- {line}" for line in told)] if told else []
    if tables:
        parts += ["## Corrected sampling at equal calls", BEST_PLAIN]
        parts += [
            text
            for name, content in tables.items()
            for text in (f"### {name}", markdown_grid(content))
        ]
    if several:
        parts.append("Points that differ in nothing but their timing are shown once.")
    for sampler, points in _by_sampler(runs).items():
        parts += [f"## {sampler}", markdown_points(distinct(points))]
        parts += _equal_quality(points)
        lines = []
        for run in runs:
            own = [p.sampler for p in run.points if p.method == "redi"]
            judged = zip(own, verdicts(run), strict=True)
            prefix = f"`{run.run}`: " if several else ""
            lines += [f"- {prefix}{text}" for name, text in judged if name == sampler]
        parts += ["\n".join(lines)] if lines else []
    return "\n\n".join(parts) + "\n"


def _equal_quality(points: Sequence[Point]) -> list[str]:
    """Fewest calls without a shown loss against full sampling, as a table; none without it."""
    methods = ("plain", "redi")
    rows = []
    for metric in HEADLINE:
        fewest = [calls_at_full_quality(points, method, metric) for method in methods]
        if any(n is not None for n in fewest):
            cells = [DASH if n is None else calls(n) for n in fewest]
            rows.append(f"| {metric.title} | {' | '.join(cells)} |")
    if not rows:
        return []
    head = f"| not worse than full sampling in | {' | '.join(METHODS[m] for m in methods)} |"
    return [
        "Fewest calls whose interval meets or beats full sampling's:",
        "\n".join([head, "|---|---:|---:|", *rows]),
    ]


def _by_sampler(runs: Sequence[Results]) -> dict[str, list[Point]]:
    points = [point for run in runs for point in run.points]
    return {
        sampler: [p for p in points if p.sampler == sampler]
        for sampler in sorted({p.sampler for p in points})
    }
