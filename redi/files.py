"""Durable files: a reader sees the whole of a file or nothing of it."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from redi.errors import UsageError

_BLOCK = 1 << 20


def write_durably(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file beside `path`, sync it and rename it into place.

    The temporary name is a function of the target, so what an interrupted write left behind is
    overwritten by the next one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".partial-{path.name}")
    write(temporary)
    with open(temporary, "rb") as file:
        os.fsync(file.fileno())
    os.replace(temporary, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock file, waiting for other processes of this machine; a dead one lets go."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def write_json(path: Path, value: Any) -> None:
    """Write JSON durably, keys in the given order, readable by people."""
    text = json.dumps(value, indent=2, allow_nan=False) + "\n"
    write_durably(path, lambda temporary: temporary.write_text(text))


def read_json(path: Path, what: str) -> Any:
    """Read JSON; a `UsageError` names the file that cannot be read."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise UsageError(f"{what} {str(path)!r} is missing") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{what} {str(path)!r} is damaged ({error}): build it again") from None


def sha256(path: Path) -> str:
    """Hex digest of a file's content."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def require_space(folder: Path, needed: int) -> None:
    """Refuse to start writing `needed` bytes where they do not fit."""
    existing = folder
    while not existing.exists():
        existing = existing.parent
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise UsageError(
            f"kb.dir={str(folder)!r} has {free / 1e9:.2f} GB free and the KB needs "
            f"{needed / 1e9:.2f} GB: free some space, choose another kb.dir or a smaller kb.size"
        )
