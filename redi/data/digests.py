"""Digests of what files hold, remembered for as long as a file stays as it is."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from redi.errors import UsageError
from redi.files import write_json
from redi.reading import digest_of as digest_of_open
from redi.reading import open_file, read_json

_WORTH = 1 << 24  # bytes from which on a digest is remembered
_SETTLED = 2.0  # seconds after a change until times tell the next change apart
#: parts of a pipeline that no picture depends on
_UNUSED = ("safety_checker", "feature_extractor")

Stamp = list[int]


def digest_of(value: object) -> str:
    """Hex digest of plain data: what JSON can hold."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """Hex digest of one file; a link is followed, as the user's own names may be links."""
    return digest_of_open(open_file(path, "the file", links=True))


def files_digest(root: Path, files: Iterable[Path]) -> str:
    """Hex digest of files by their path below `root` and their content, whatever the order.

    Where they are large, the digest of each is kept in the user's cache folder beside its size,
    number and times, and read again only after one of these has changed.
    """
    paths = sorted(files)
    total = sum(path.stat().st_size for path in paths)
    known = _remembered(root) if total >= _WORTH else {}
    now, fresh = time.time_ns(), {}
    for path in paths:
        name, stamp = path.relative_to(root).as_posix(), _stamp(path)
        entry = known.get(name)
        fresh[name] = entry if entry and entry[0] == stamp else (stamp, file_digest(path))
    if total >= _WORTH and fresh != known:
        settled = {n: e for n, e in fresh.items() if now - max(e[0][2:]) > _SETTLED * 1e9}
        _remember(root, {**known, **settled})
    return digest_of({name: entry[1] for name, entry in fresh.items()})


def pipeline_files(root: Path) -> list[Path]:
    """What makes a diffusers pipeline: its index, and the files of the parts that it names."""
    index = root / "model_index.json"
    parts = read_json(index, "the pipeline")
    if not isinstance(parts, dict):
        raise UsageError(f"the pipeline {str(index)!r} is damaged (no JSON object)")
    found = [index]
    for name, value in parts.items():
        if name in _UNUSED:
            continue
        if isinstance(value, Sequence) and not isinstance(value, str) and any(value):
            found += [path for path in (root / name).rglob("*") if path.is_file()]
    return found


def _stamp(path: Path) -> Stamp:
    found = path.stat()
    return [found.st_size, found.st_ino, found.st_mtime_ns, found.st_ctime_ns]


def _memory(root: Path) -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "redi" / "digests" / f"{digest_of(str(root.resolve()))[:16]}.json"


def _remembered(root: Path) -> dict[str, tuple[Stamp, str]]:
    try:
        content = read_json(_memory(root), "the remembered digests")
        return {name: (list(stamp), str(digest)) for name, (stamp, digest) in content.items()}
    except (UsageError, OSError, ValueError, TypeError, AttributeError):
        return {}


def _remember(root: Path, entries: dict[str, tuple[Stamp, str]]) -> None:
    try:
        write_json(_memory(root), entries)
    except (UsageError, OSError):
        return  # only time is lost
