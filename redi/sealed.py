"""Sealed tensor files: what was fitted or computed, with a checksum, and what it belongs to.

A file is safetensors. Its metadata say what kind of file it is, what it is `of` (the hashes of its
knowledge base and model, its settings), and its content besides tensors; one checksum covers all of
these, the tensors' names, types and shapes, and their bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redi import files
from redi.errors import UsageError
from redi.files import write_durably
from redi.lazy import Tensor, torch
from redi.reading import open_file, parse_json
from redi.tensor_files import Extent, header_of, read_header

_FORMAT = "redi sealed 1"
_TYPES = {
    "BOOL": "bool", "U8": "uint8", "I8": "int8", "I16": "int16", "F16": "float16",
    "BF16": "bfloat16", "I32": "int32", "F32": "float32", "I64": "int64", "F64": "float64",
}  # fmt: skip
_NAMES = {f"torch.{name}": code for code, name in _TYPES.items()}


@dataclass(frozen=True)
class Sealed:
    """What a sealed file holds; `of` is what it belongs to."""

    tensors: dict[str, Tensor]
    content: Any
    of: dict[str, Any]


def save_sealed(
    path: Path, what: str, of: Mapping[str, Any], tensors: Mapping[str, Tensor], content: Any = None
) -> None:
    """Write durably; `of` and `content` are JSON, `what` names the kind ("the correction")."""
    named = sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0]))
    arrays = [(name, _NAMES[str(tensor.dtype)], tuple(tensor.shape)) for name, tensor in named]
    parts = [_bytes(tensor) for _, tensor in named]
    about = json.dumps(
        {"format": _FORMAT, "what": what, "of": dict(of), "content": content}, allow_nan=False
    )
    digest = _digest(about, arrays)
    for part in parts:
        digest.update(part)
    header = header_of(arrays, {"about": about, "checksum": digest.hexdigest()})

    def fill(temporary: Path) -> None:
        with open(temporary, "wb") as file:
            for part in (memoryview(header), *parts):
                files.write(file.fileno(), part, path)

    write_durably(path, fill)


def load_sealed(
    path: Path, what: str, of: Mapping[str, Any], fix: str = "delete it, it is made again"
) -> Sealed:
    """Read a file that `save_sealed` wrote, on the CPU.

    A `UsageError` names a file that is damaged, of another kind, or of something else: every field
    of `of` has to be as it was written.
    """
    descriptor = open_file(path, what)
    try:
        read = _read(descriptor)
    except UsageError:
        raise
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{what} {str(path)!r} is damaged ({error}): {fix}") from None
    finally:
        os.close(descriptor)
    about, tensors = read
    if about.get("format") != _FORMAT or about.get("what") != what:
        raise UsageError(f"{what} {str(path)!r} is another kind of file: {fix}")
    different = [name for name, value in _as_json(of).items() if about["of"].get(name) != value]
    if different:
        raise UsageError(
            f"{what} {str(path)!r} was made for another {' and another '.join(different)}: {fix}"
        )
    return Sealed(tensors, about["content"], about["of"])


def _read(descriptor: int) -> tuple[dict[str, Any], dict[str, Tensor]]:
    extents, metadata = read_header(descriptor)
    if set(metadata) != {"about", "checksum"}:
        raise ValueError("it has no checksum")
    named = sorted(extents.items(), key=lambda item: (item[1].start, item[1].stop))
    first = named[0][1].start if named else os.fstat(descriptor).st_size
    data = bytearray(os.fstat(descriptor).st_size - first)
    done = 0
    while done < len(data):
        more = os.preadv(descriptor, [memoryview(data)[done:]], first + done)
        if more == 0:
            raise ValueError("it was cut off while it was read")
        done += more
    arrays = [(name, extent.dtype, extent.shape) for name, extent in named]
    if os.pread(descriptor, first, 0) != header_of(arrays, metadata):  # padding says nothing
        raise ValueError("its header is not as it was written")
    digest = _digest(metadata["about"], arrays)
    digest.update(data)
    if digest.hexdigest() != metadata["checksum"]:
        raise ValueError("its checksum differs")
    about = parse_json(metadata["about"].encode())
    if not isinstance(about["of"], dict):
        raise ValueError("it does not say what it is of")
    return about, {name: _tensor(data, extent, first) for name, extent in named}


def _digest(about: str, arrays: list[tuple[str, str, tuple[int, ...]]]) -> Any:
    layout = sorted([name, dtype, list(shape)] for name, dtype, shape in arrays)
    return hashlib.sha256(json.dumps([about, layout]).encode())


def _bytes(tensor: Tensor) -> memoryview:
    flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return memoryview(flat.numpy().data)


def _tensor(data: bytearray, extent: Extent, first: int) -> Tensor:
    if extent.stop == extent.start:
        return torch.empty(extent.shape, dtype=_dtype(extent))
    part = memoryview(data)[extent.start - first : extent.stop - first]
    return torch.frombuffer(part, dtype=_dtype(extent)).reshape(extent.shape).clone()


def _dtype(extent: Extent) -> torch.dtype:
    return getattr(torch, _TYPES[extent.dtype])


def _as_json(of: Mapping[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(dict(of), allow_nan=False))
