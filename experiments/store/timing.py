"""Times that can be compared: actions taken in turns in one process, medians of each."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np


def seconds(action: Callable[[], object]) -> float:
    """Wall-clock seconds of one call."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def in_turns(repeats: int, *actions: Callable[[], object]) -> list[float]:
    """Median seconds of each action, after a first turn that is not counted."""
    turns = [[seconds(action) for action in actions] for _ in range(repeats + 1)]
    return [float(median) for median in np.median(turns[1:], 0)]
