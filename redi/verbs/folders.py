"""Folders that a command will write to, tried before any work."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from redi.errors import UsageError

_LONGEST = 255  # bytes of one name, on every common file system


def check_folder(told: str, path: str | Path, finished: str | None = None) -> None:
    """Refuse a folder that cannot be made or written; `told` is the key that names it.

    What is not there yet is tried in the nearest folder above it that is; nothing stays behind.
    A folder that holds the file `finished` will only be read.

    Raises:
        UsageError: a name that is too long, a file in the way, a folder that takes no files.
    """
    named = f"{told}={str(path)!r}"
    if not str(path).strip():
        raise UsageError(f"{named} names no folder: give a path")
    for part in Path(path).parts:
        if len(os.fsencode(part)) > _LONGEST:
            raise UsageError(
                f"{named} has a name of {len(os.fsencode(part))} bytes: use at most {_LONGEST}"
            )
    try:
        if finished is not None and (Path(path) / finished).is_file():
            return
        above = Path(path).absolute()
        while not above.exists():
            above = above.parent
        if not above.is_dir():
            raise UsageError(f"{named} is or lies below the file {str(above)!r}: choose another")
        with tempfile.TemporaryDirectory(prefix=".partial-check-", dir=above):
            pass
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise UsageError(
            f"{named} cannot be written ({reason}): choose another folder or change this one"
        ) from error
