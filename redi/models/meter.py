"""Network calls and seconds, counted where the network is called."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from redi.lazy import torch


class CallMeter:
    """Adds up what a model spends.

    One call for one sample counts once, with its guidance pass: `calls / samples` is the NFE that
    papers quote. Rows that only pad a batch do not count.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.calls = 0
        self.seconds = 0.0

    @contextmanager
    def measure(self, samples: int) -> Iterator[None]:
        """Count one network call for `samples` samples and time it."""
        start = now(self.device)
        yield
        self.calls += samples
        self.seconds += now(self.device) - start

    def snapshot(self) -> tuple[int, float]:
        """Calls and seconds so far."""
        return self.calls, self.seconds


def now(device: torch.device) -> float:
    """Wall-clock seconds after all work queued on the device has ended."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
