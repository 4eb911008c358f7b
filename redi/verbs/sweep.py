"""A summary over all points of a Hydra multirun."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback

from redi.errors import UsageError
from redi.report.runs import find_runs
from redi.report.summary import summarise
from redi.text import Terminal


class SweepSummary(Callback):
    """Summarises the finished points below the sweep's folder once its last job has ended."""

    def on_multirun_end(self, config: Any, **_: Any) -> None:
        root = Path(config.hydra.sweep.dir)
        try:
            runs = find_runs(root)
        except UsageError:  # `redi kb build` finishes points without results
            return
        summarise(root)
        Terminal().print(f"Summary of {len(runs)} points: {root}")
