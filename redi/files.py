"""Durable files: a reader sees the whole of a file or nothing of it.

Every change to the disk goes through the small functions at the end, so that a test can fail or
kill the process at any of them.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import itertools
import json
import os
import platform
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from redi.errors import UsageError

_BLOCK = 1 << 20
_PARTIAL = ".partial"
_HOST = hashlib.sha256(platform.node().encode()).hexdigest()[:6]
_numbers = itertools.count()

_REASONS = {
    errno.ENOSPC: "the disk is full: free some space and run the same command again",
    errno.EDQUOT: "the disk quota is used up: free some space and run the same command again",
    errno.EROFS: "the file system is read-only: choose another folder",
    errno.EACCES: "permission is denied: choose another folder or change its permissions",
    errno.EPERM: "permission is denied: choose another folder or change its permissions",
    errno.EIO: "the disk reports an error: check it, then run the same command again",
}


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn what a disk may refuse into a `UsageError` that names the file and what to do."""
    try:
        yield
    except OSError as error:
        reason = _REASONS.get(error.errno or 0)
        if reason is None:
            raise
        raise UsageError(f"{str(path)!r} cannot be written, {reason}") from error


def temporary_name(path: Path) -> Path:
    """A name beside `path` that no other writer uses; it tells which process made it."""
    return path.with_name(f"{_PARTIAL}-{_HOST}-{os.getpid()}-{next(_numbers)}-{path.name}")


def write_durably(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file beside `path`, sync it and rename it into place."""
    temporary = temporary_name(path)
    with disk_errors(path):
        try:
            make_folder(path.parent)
            write(temporary)
            with open(temporary, "rb") as file:
                sync(file.fileno(), path)
            replace(temporary, path)
            sync_folder(path.parent)
        finally:
            remove(temporary)


def commit_json(path: Path, value: Any) -> bool:
    """Write JSON durably where no file is yet; False where another writer was first."""
    temporary = temporary_name(path)
    with disk_errors(path):
        try:
            make_folder(path.parent)
            with open(temporary, "wb") as file:
                write(file.fileno(), _json(value), path)
                sync(file.fileno(), path)
            link(temporary, path)
            sync_folder(path.parent)
        except FileExistsError:
            return False
        finally:
            remove(temporary)
    return True


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock file, waiting for other processes of this machine; a dead one lets go."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def write_json(path: Path, value: Any) -> None:
    """Write JSON durably, keys in the given order, readable by people."""

    def fill(temporary: Path) -> None:
        with open(temporary, "wb") as file:
            write(file.fileno(), _json(value), path)

    write_durably(path, fill)


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2, allow_nan=False) + "\n").encode()


def read_json(path: Path, what: str) -> Any:
    """Read JSON; a `UsageError` names the file that cannot be read."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise UsageError(f"{what} {str(path)!r} is missing") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{what} {str(path)!r} is damaged ({error}): build it again") from None


def sealed(content: dict[str, Any]) -> dict[str, Any]:
    """The same JSON object with a checksum of all of it, for `read_sealed`."""
    return {**content, "checksum": _checksum(content)}


def read_sealed(
    path: Path, what: str, old: Callable[[dict[str, Any]], bool] = lambda content: False
) -> dict[str, Any]:
    """Read a JSON object that `sealed` made, without its checksum, which has to be right.

    An object that `old` recognises comes from before there were checksums and needs none.
    """
    content = read_json(path, what)
    if not isinstance(content, dict):
        raise UsageError(f"{what} {str(path)!r} is damaged (no JSON object): build it again")
    expected = content.pop("checksum", None)
    if expected is None and old(content):
        return content
    if expected != _checksum(content):
        raise UsageError(f"{what} {str(path)!r} was altered (its checksum differs): build it again")
    return content


def _checksum(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def sha256(path: Path) -> str:
    """Hex digest of a file's content."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def is_free(folder: Path) -> bool:
    """Whether a folder is missing or holds nothing but what interrupted writers left."""
    return not folder.exists() or all(p.name.startswith(_PARTIAL) for p in folder.iterdir())


def sweep_partials(root: Path) -> int:
    """Remove temporary files below `root` whose process on this machine is gone."""
    removed = 0
    for path in root.rglob(f"{_PARTIAL}-{_HOST}-*"):
        owner = path.name.split("-")[2]
        if owner.isdigit() and not _alive(int(owner)):
            with disk_errors(path):
                remove(path)
            removed += 1
    return removed


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def free_bytes(folder: Path) -> int:
    """Free space where `folder` is or will be."""
    existing = folder.absolute()
    while not existing.exists():
        existing = existing.parent
    return shutil.disk_usage(existing).free


def require_space(folder: Path, needed: int) -> None:
    """Refuse to start writing `needed` bytes where they do not fit."""
    free = free_bytes(folder)
    if needed > free:
        raise UsageError(
            f"kb.dir={str(folder)!r} has {free / 1e9:.2f} GB free and the KB needs "
            f"{needed / 1e9:.2f} GB: free some space, choose another kb.dir or a smaller kb.size"
        )


def make_folder(path: Path) -> None:
    """Make a folder and its parents."""
    path.mkdir(parents=True, exist_ok=True)


def write(descriptor: int, data: bytes | memoryview, path: Path) -> None:
    """Write all of `data`; `path` is the name that the file will have."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def sync(descriptor: int, path: Path) -> None:
    """Wait until a file's content is on the disk."""
    os.fsync(descriptor)


def replace(temporary: Path, path: Path) -> None:
    """Give a finished file its name."""
    os.replace(temporary, path)


def link(temporary: Path, path: Path) -> None:
    """Give a finished file its name where that is free; `FileExistsError` otherwise."""
    os.link(temporary, path)


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    """Remove a file if it is there."""
    path.unlink(missing_ok=True)
