"""What a run directory shows beside its results: made from them, and made again when missing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from redi.config import LoggerConfig
from redi.errors import UsageError
from redi.files import write_durably, write_json
from redi.reading import read_json
from redi.report.examples import EXAMPLES, read_examples, run_sheet
from redi.report.figures import save_png
from redi.report.loggers import log_point
from redi.report.markdown import markdown_report
from redi.report.pareto import headline, pareto_figure, shown_samplers
from redi.report.pictures import DRAWS, PER_IMAGE
from redi.report.points import POINTS, write_points
from redi.report.runs import RESULTS, SHEET, Run, load_run
from redi.report.sections import run_sections

CONFIG, TABLE, FRONT = "config.yaml", "table.md", "pareto.png"
LOGGED = "logs/logged.json"  # the loggers that have the run in full


def clear(folder: Path) -> None:
    """Remove what an earlier, unfinished run left, so that nothing of two runs mixes."""
    names = (RESULTS, PER_IMAGE, DRAWS, EXAMPLES, CONFIG, POINTS, TABLE, FRONT, SHEET, LOGGED)
    for name in names:
        (folder / name).unlink(missing_ok=True)


def complete(folder: Path, logger: LoggerConfig, alone: bool = True) -> Run:
    """Make every output of a finished run that is not there, and hand it to the logger.

    A run that is not `alone` leaves the plot to the summary of its sweep.
    """
    run = load_run(folder)
    table = markdown_report("", run_sections(run), folder)
    examples = read_examples(folder)
    metrics = headline([run])
    makers: dict[str, Callable[[Path], Any]] = {
        POINTS: lambda path: write_durably(path, lambda p: write_points(run.points, p)),
        TABLE: lambda path: write_durably(path, lambda p: p.write_text(table, "utf-8")),
    }
    if examples:
        makers[SHEET] = lambda path: run_sheet(run, examples, path)
    if alone and metrics:
        makers[FRONT] = lambda path: save_png(
            pareto_figure([run], metrics, shown_samplers([run])), path
        )
    for name, make in makers.items():
        if not (folder / name).exists():
            make(folder / name)
    told, done = asdict(logger), _logged(folder)
    if logger.name != "none" and told not in done:
        try:
            log_point(logger, run, examples, table)
        except UsageError:
            raise
        except Exception as error:  # a logger's own failure, whatever its package raises
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UsageError(
                f"logger={logger.name} failed ({reason}): the results are safe in "
                f"{str(folder)!r}, run the same command again to log them"
            ) from error
        write_json(folder / LOGGED, [*done, told])
    return run


def _logged(folder: Path) -> list[Any]:
    path = folder / LOGGED
    if not path.is_file() or not (folder / "logs" / "metrics.csv").is_file():
        return []
    found = read_json(path, "list of loggers")
    return found if isinstance(found, list) else []
