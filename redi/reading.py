"""Reading what others may have written: a damaged or forged file is one sentence that names it."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

from redi.errors import UsageError

_BLOCK = 1 << 20
_SEALED = 8 << 20  # bytes of a manifest, journal entry or index description: far more than needed
_LARGEST = 1 << 28


def open_file(path: Path | str, what: str, links: bool = False) -> int:
    """Descriptor of a regular file, for reading; refuses folders, pipes and, unless `links`, links.

    Links are followed in what the user names, and never in what may come from somebody else.
    """
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if links else os.O_NOFOLLOW)
    try:
        descriptor = os.open(path, flags)
    except FileNotFoundError:
        raise UsageError(f"{what} {str(path)!r} is missing") from None
    except OSError as error:
        if os.path.islink(path) and not links:
            raise UsageError(
                f"{what} {str(path)!r} is a link, and only files are read: copy the file that it "
                "points to into its place"
            ) from None
        raise UsageError(f"{what} {str(path)!r} cannot be read ({error.strerror})") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise UsageError(f"{what} {str(path)!r} is no file: remove it")
    return descriptor


def open_below(root: Path, name: str, what: str) -> int:
    """Descriptor of the file `name`, "folder/file", below `root`; no link leads out of it."""
    folder = os.path.dirname(name)
    if folder:
        refuse_link(os.path.join(root, folder))
    return open_file(os.path.join(root, name), what)


def refuse_link(folder: Path | str) -> None:
    """Refuse a folder that is a link to another place."""
    if os.path.islink(folder):
        raise UsageError(
            f"the folder {str(folder)!r} is a link, and links are not followed here: copy the "
            "folder that it points to into its place"
        )


def read_bytes(path: Path | str, what: str, largest: int = _LARGEST, links: bool = False) -> bytes:
    """A whole file of at most `largest` bytes."""
    descriptor = open_file(path, what, links)
    try:
        size = os.fstat(descriptor).st_size
        if size > largest:
            raise UsageError(
                f"{what} {str(path)!r} has {size} bytes, more than the {largest} that it can need: "
                "it is damaged or no such file"
            )
        data = os.read(descriptor, size)
        while len(data) < size and (more := os.read(descriptor, size - len(data))):
            data += more
        return data
    finally:
        os.close(descriptor)


def parse_json(data: bytes, finite: bool = True) -> Any:
    """JSON in UTF-8, with `finite` numbers only; `ValueError` with the reason otherwise."""
    only = {"parse_constant": _refuse, "parse_float": _finite} if finite else {}
    try:
        return json.loads(data.decode(), **only)  # type: ignore[arg-type]
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def read_json(path: Path, what: str) -> Any:
    """Read JSON; a `UsageError` names the file that cannot be read."""
    return _parsed(path, what, read_bytes(path, what, links=True), finite=False)


def _parsed(path: Path | str, what: str, data: bytes, finite: bool) -> Any:
    try:
        return parse_json(data, finite)
    except UnicodeDecodeError as error:
        reason = f"byte {error.start} is no UTF-8"
    except ValueError as error:
        reason = str(error)
    raise UsageError(f"{what} {str(path)!r} is damaged ({reason}): build it again")


def sealed(content: dict[str, Any]) -> dict[str, Any]:
    """The same JSON object with a checksum of all of it, for `read_sealed`."""
    return {**content, "checksum": _checksum(content)}


def read_sealed(
    path: Path | str, what: str, old: Callable[[dict[str, Any]], bool] = lambda content: False
) -> dict[str, Any]:
    """Read a JSON object that `sealed` made, without its checksum, which has to be right.

    An object that `old` recognises comes from before there were checksums and needs none.
    """
    content = _parsed(path, what, read_bytes(path, what, _SEALED), finite=True)
    if not isinstance(content, dict):
        raise UsageError(f"{what} {str(path)!r} is damaged (no JSON object): build it again")
    expected = content.pop("checksum", None)
    if expected is None and old(content):
        return content
    if expected != _checksum(content):
        raise UsageError(f"{what} {str(path)!r} was altered (its checksum differs): build it again")
    return content


def whole(value: Any, least: int = 0, most: int = 1 << 40) -> int:
    """`value` where it is a whole number in the range; `ValueError` otherwise."""
    if type(value) is not int or not least <= value <= most:
        raise ValueError(f"{json.dumps(value)[:40]} is no whole number from {least} to {most}")
    return value


def sha256(path: Path, what: str = "the file") -> str:
    """Hex digest of a file's content."""
    return digest_of(open_file(path, what))


def digest_of(descriptor: int) -> str:
    """Hex digest of an open file's content; closes it."""
    digest = hashlib.sha256()
    with open(descriptor, "rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _checksum(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _refuse(constant: str) -> None:
    raise ValueError(f"it holds {constant}")


def _finite(text: str) -> float:
    number = float(text)
    if number in (float("inf"), -float("inf")):
        raise ValueError(f"it holds the number {text[:20]}")
    return number
