"""One thread for work that is over before a team of threads has met."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from redi.lazy import torch


@contextmanager
def one_thread() -> Iterator[None]:
    """PyTorch uses one thread meanwhile; usable as a decorator as well.

    The threads of a team wait for each other at the end of every operation. Where other processes
    keep the cores busy, that takes far longer than the small operations of a search themselves.
    """
    before = torch.get_num_threads()
    if before == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
