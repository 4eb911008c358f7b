"""Sealed files: what is read is what was written, of what was asked for, or one sentence."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from redi.errors import UsageError
from redi.reading import parse_json
from redi.sealed import load_sealed, save_sealed

OF = {"kb": "a1", "model": "b2", "calls": 4}
TENSORS = {
    "a": torch.randn(3, 4, generator=torch.Generator().manual_seed(0)),
    "b": torch.arange(5),
    "c": torch.randn(2, 2).bfloat16(),
    "none": torch.empty(0, 3, dtype=torch.float64),
    "one": torch.tensor(2.5, dtype=torch.float64),
    "yes": torch.tensor([True, False]),
}


def written(folder: Path) -> Path:
    path = folder / "x.safetensors"
    save_sealed(path, "the thing", OF, TENSORS, {"calls": 4.25, "names": ["é"]})
    return path


def test_a_round_trip_keeps_bits_and_content(tmp_path: Path) -> None:
    path = written(tmp_path)
    read = load_sealed(path, "the thing", OF)
    assert read.content == {"calls": 4.25, "names": ["é"]} and read.of == OF
    other = load_file(path)  # the format is the usual one
    for name, tensor in TENSORS.items():
        for found in (read.tensors[name], other[name]):
            assert found.dtype == tensor.dtype and torch.equal(found, tensor)
    assert set(read.tensors) == set(TENSORS)


def test_another_kind_or_owner_is_refused_by_name(tmp_path: Path) -> None:
    path = written(tmp_path)
    with pytest.raises(UsageError, match=r"the thing '.*x.safetensors' was made for another kb"):
        load_sealed(path, "the thing", OF | {"kb": "c3"})
    with pytest.raises(UsageError, match="another model and another calls"):
        load_sealed(path, "the thing", {"model": "c", "calls": 5})
    with pytest.raises(UsageError, match="another step"):
        load_sealed(path, "the thing", {"step": 3})
    with pytest.raises(UsageError, match="another kind of file"):
        load_sealed(path, "the other thing", OF)
    with pytest.raises(UsageError, match="is missing"):
        load_sealed(tmp_path / "y", "the thing", OF)


@settings(max_examples=200, deadline=None)
@given(place=st.integers(0, 1 << 20), value=st.integers(1, 255))
def test_no_changed_byte_is_read(
    tmp_path_factory: pytest.TempPathFactory, place: int, value: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "bytes" / "x.safetensors"
    if not path.is_file():
        path = written(path.parent)
    original = path.read_bytes()
    other = path.with_name("other.safetensors")
    place %= len(original)
    other.write_bytes(original[:place] + bytes([original[place] ^ value]) + original[place + 1 :])
    with pytest.raises(UsageError, match="other.safetensors"):
        load_sealed(other, "the thing", OF)
    other.write_bytes(original[:place])
    with pytest.raises(UsageError, match="other.safetensors"):
        load_sealed(other, "the thing", OF)


def test_padding_is_as_it_was_written(tmp_path: Path) -> None:
    """A blank that became a tab is the same JSON, and still a changed byte."""
    for extra in range(8):  # headers of every length modulo eight
        path = tmp_path / f"{extra}.safetensors"
        save_sealed(path, "the thing", OF, TENSORS, "x" * extra)
        whole = path.read_bytes()
        end = 8 + int.from_bytes(whole[:8], "little")
        assert load_sealed(path, "the thing", OF).content == "x" * extra
        if whole[end - 1 : end] == b" ":
            path.write_bytes(whole[: end - 1] + b"\t" + whole[end:])
            with pytest.raises(UsageError, match="header is not as it was written"):
                load_sealed(path, "the thing", OF)


def test_links_pipes_and_forged_headers_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path)
    (tmp_path / "link").symlink_to(path)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name, words in (("link", "is a link"), ("pipe", "is no file"), ("folder", "is no file")):
        with pytest.raises(UsageError, match=words):
            load_sealed(tmp_path / name, "the thing", OF)
    original = path.read_bytes()
    length = int.from_bytes(original[:8], "little")
    header = json.loads(original[8 : 8 + length])
    for change in (
        {"shape": [1 << 60, 1 << 60]},
        {"shape": [-3, -4]},
        {"shape": [True, 12]},
        {"dtype": "F99"},
        {"dtype": ["F32"]},
        {"data_offsets": [0, 1 << 61]},
        {"data_offsets": [-48, 0]},
        {"shape": 12},
    ):
        text = json.dumps(header | {"a": header["a"] | change}).encode()
        path.write_bytes(len(text).to_bytes(8, "little") + text + original[8 + length :])
        with pytest.raises(UsageError, match="damaged"):
            load_sealed(path, "the thing", OF)
    path.write_bytes((1 << 62).to_bytes(8, "little") + original[8:])
    with pytest.raises(UsageError, match="a header of"):
        load_sealed(path, "the thing", OF)


@pytest.mark.parametrize(
    "text", [b"[" * 100_000, b"NaN", b"[1e999]", b"Infinity", b"9" * 5000, b"\xff", b"{"]
)
def test_odd_json_is_a_value_error(text: bytes) -> None:
    with pytest.raises(ValueError):
        parse_json(text)
