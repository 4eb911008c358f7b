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
import re
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from redi.errors import UsageError

#: name of the lock file in a folder that is written to
LOCK = ".redi.lock"
_PARTIAL = ".partial"
_numbers = itertools.count()

_REASONS = {
    errno.ENOSPC: "the disk is full: free some space and run the same command again",
    errno.EDQUOT: "the disk quota is used up: free some space and run the same command again",
    errno.EROFS: "the file system is read-only: choose another folder",
    errno.EACCES: "permission is denied: choose another folder or change its permissions",
    errno.EPERM: "permission is denied: choose another folder or change its permissions",
    errno.EIO: "the disk reports an error: check it, then run the same command again",
    errno.ENOENT: "its folder is gone: choose another folder",
    errno.EEXIST: "a file stands where a folder has to be: choose another folder",
    errno.ENOTDIR: "a file stands where a folder has to be: choose another folder",
    errno.EISDIR: "a folder stands in its place: choose another name",
    errno.ELOOP: "a link stands in its place: remove the link or choose another folder",
    errno.ENAMETOOLONG: "a name in it is longer than the file system allows: choose a shorter one",
    errno.ENOLCK: "the file system has no locks: choose a folder on another one",
    errno.ENOTSUP: "the file system cannot do this: choose a folder on another one",
}


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn what a disk may refuse into a `UsageError` that names the file and what to do."""
    try:
        yield
    except UsageError:
        raise
    except Exception as error:
        reason = _REASONS.get(_error_number(error))
        if reason is None:
            raise
        raise UsageError(f"{str(path)!r} cannot be written, {reason}") from error


def _error_number(error: Exception) -> int:
    """The system's number of an error; libraries in Rust only mention it in their text."""
    if isinstance(error, OSError) and error.errno:
        return error.errno
    told = re.search(r"\(os error (\d+)\)", str(error))
    return int(told[1]) if told else 0


def temporary_name(path: Path) -> Path:
    """A name beside `path` that no other writer uses; it tells which process made it."""
    return path.with_name(f"{_PARTIAL}-{_place()}-{os.getpid()}-{next(_numbers)}-{path.name[-60:]}")


@cache
def _place() -> str:
    """Where process numbers mean what they mean here: this machine since its start, this container.

    Containers of one machine may share a host name, and machines of a cluster a file system.
    """
    known = [platform.node()]
    for read in (
        lambda: Path("/proc/sys/kernel/random/boot_id").read_text(),
        lambda: os.readlink("/proc/self/ns/pid"),
    ):
        try:
            known.append(read())
        except OSError:
            known.append("")
    return hashlib.sha256("\n".join(known).encode()).hexdigest()[:10]


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
        make_folder(path.parent)
        try:
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
    descriptor = _lock_file(path)
    try:
        with disk_errors(path):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def locked_alone(path: Path, busy: str) -> Iterator[None]:
    """Hold a lock file, or raise `UsageError(busy)` where another process of this machine does."""
    descriptor = _lock_file(path)
    try:
        with disk_errors(path):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UsageError(busy) from None
        yield
    finally:
        os.close(descriptor)


def _lock_file(path: Path) -> int:
    with disk_errors(path):
        make_folder(path.parent)
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)


def write_json(path: Path, value: Any) -> None:
    """Write JSON durably, keys in the given order, readable by people."""

    def fill(temporary: Path) -> None:
        with open(temporary, "wb") as file:
            write(file.fileno(), _json(value), path)

    write_durably(path, fill)


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2, allow_nan=False) + "\n").encode()


def usable_folder(folder: Path, told: str) -> bool:
    """Whether a folder is there; refuses a name that can be none. `told` is the user's field."""
    try:
        return stat.S_ISDIR(os.stat(folder).st_mode) or _no_folder(folder, told, errno.ENOTDIR)
    except FileNotFoundError:
        return False
    except OSError as error:
        return _no_folder(folder, told, error.errno or 0)


def _no_folder(folder: Path, told: str, number: int) -> bool:
    reason = _REASONS.get(number, os.strerror(number))
    raise UsageError(f"{told}={str(folder)!r} cannot be used, {reason}")


def is_free(folder: Path) -> bool:
    """Whether a folder is missing or holds nothing but locks and what interrupted writers left."""
    return not folder.exists() or all(
        is_partial(p.name) or p.name == LOCK for p in folder.iterdir()
    )


def sweep_partials(root: Path) -> int:
    """Remove temporary files below `root` whose process on this machine is gone."""
    removed = 0
    for path in root.rglob(f"{_PARTIAL}-{_place()}-*"):
        owner = path.name.split("-")[2]
        if owner.isdigit() and not _alive(int(owner)):
            with disk_errors(path):
                remove(path)
            removed += 1
    return removed


def is_partial(name: str) -> bool:
    """Whether a file's name is that of a temporary file."""
    return name.startswith(_PARTIAL)


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
