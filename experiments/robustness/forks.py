"""Commands of redi in forks of this process.

A fork has imported already what an earlier one needed. So a command starts in no time, and what
kills it at a random moment meets its work, not Python reading modules.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import sys
import time
from pathlib import Path

from redi.cli import main as command_line

LIMIT = 600  # seconds after which a command counts as stuck


def start(line: list[str], folder: Path) -> int:
    """The number of a new process, leader of its group, that runs a command in `folder`."""
    child = os.fork()
    if child:
        return child
    os.setsid()
    os.chdir(folder)
    signal.alarm(LIMIT)
    nothing = os.open(os.devnull, os.O_RDWR)
    said = os.open(folder.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream, target in ((0, nothing), (1, said), (2, said)):
        os.dup2(target, stream)
    sys.argv = ["redi", *line]
    code = 1
    try:
        command_line()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    finally:
        sys.stdout.flush()
        folder.with_suffix(".modules").write_text(json.dumps(list(sys.modules)))
        os._exit(code)


def finish(line: list[str], folder: Path) -> float:
    """Run a command to its end; the seconds that it took."""
    begun = time.perf_counter()
    _, status = os.waitpid(start(line, folder), 0)
    taken = time.perf_counter() - begun
    if status:
        told = folder.with_suffix(".log").read_text()[-2000:]
        raise AssertionError(f"redi {' '.join(line)} ended with {status}:\n{told}")
    _import(folder.with_suffix(".modules"))
    return taken


def _import(names: Path) -> None:
    for name in json.loads(names.read_text()):
        if name not in sys.modules:
            with contextlib.suppress(Exception):  # some are known by another name
                importlib.import_module(name)


def kill(line: list[str], folder: Path, after: float) -> bool:
    """Start a command and kill it with its children; False where it had ended before."""
    child = start(line, folder)
    time.sleep(after)
    if os.waitpid(child, os.WNOHANG)[0]:
        return False
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return True
