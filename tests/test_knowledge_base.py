"""The store: what is read is what was written, and nothing damaged is read."""

from __future__ import annotations

import json
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import redi.files
from redi.errors import UsageError
from redi.knowledge_base import Column, Entry, KnowledgeBase, Manifest, Writer, verify

COLUMNS = (
    Column("step_0002", "latents", (2, 3)),
    Column("step_0002", "prediction", (2, 3)),
    Column("step_0005", "latents", (2, 3)),
)
MANIFEST = Manifest({"sampler": "ddim", "steps": 10}, COLUMNS, shard_size=4)


def arrays(shard: int) -> dict[tuple[str, str], np.ndarray]:
    rng = np.random.default_rng(shard)
    return {(c.group, c.name): rng.normal(size=(4, *c.shape)).astype("f4") for c in COLUMNS}


def entries(shard: int) -> list[Entry]:
    return [Entry(i, f"prompt {i}", i % 3) for i in range(4 * shard, 4 * shard + 4)]


def fill(root: Path, shards: int = 3) -> Path:
    writer = Writer(root, MANIFEST, {})
    for shard in writer.missing(4 * shards):
        writer.write(shard, arrays(shard), entries(shard))
    return root


def content(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_a_round_trip_keeps_every_value(tmp_path: Path) -> None:
    kb = KnowledgeBase(fill(tmp_path))
    for column in COLUMNS:
        expected = np.concatenate([arrays(s)[column.group, column.name] for s in range(3)])
        assert np.array_equal(kb.column(column.group, column.name).numpy(), expected)
    assert kb.prompts == [f"prompt {i}" for i in range(12)]
    assert kb.noise_ids.tolist() == [i % 3 for i in range(12)]


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_gather_equals_indexing_and_a_prefix_is_a_prefix(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    root = tmp_path_factory.getbasetemp() / "shared"
    if not root.exists():
        fill(root)
    count = data.draw(st.integers(1, 12))
    kb, whole = KnowledgeBase(root, count), KnowledgeBase(root)
    rows = torch.tensor(
        data.draw(st.lists(st.lists(st.integers(0, count - 1), min_size=2, max_size=2), min_size=1))
    )
    assert torch.equal(
        kb.gather("step_0005", "latents", rows), whole.column("step_0005", "latents")[rows]
    )
    assert torch.equal(
        kb.column("step_0002", "latents"), whole.column("step_0002", "latents")[:count]
    )
    assert kb.prompts == whole.prompts[:count]


def test_extending_never_rewrites(tmp_path: Path) -> None:
    fill(tmp_path, 1)
    before = content(tmp_path)
    fill(tmp_path, 3)
    after = content(tmp_path)
    assert all(after[name] == data for name, data in before.items())


def test_a_failure_at_every_rename_is_made_good_by_the_next_writer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, real = content(fill(tmp_path / "whole", 2)), redi.files.os.replace
    renames = len(expected)
    for stop in range(renames):
        root, done = tmp_path / f"stopped_{stop}", 0

        def replace(source: Path, target: Path, limit: int = stop) -> None:
            nonlocal done
            if done == limit:
                raise KeyboardInterrupt
            done += 1
            real(source, target)

        monkeypatch.setattr(redi.files.os, "replace", replace)
        with pytest.raises(KeyboardInterrupt):
            fill(root, 2)
        monkeypatch.setattr(redi.files.os, "replace", real)
        complete = len(list(root.glob("journal/[0-9]*.json")))
        if complete:
            assert len(KnowledgeBase(root)) == 4 * complete  # readers see whole shards only
        fill(root, 2)
        assert content(root) == expected


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_damage_in_any_file_is_named(tmp_path: Path, damage: str) -> None:
    fill(tmp_path, 1)
    for name in [n for n in content(tmp_path) if not n.startswith(("manifest", "journal"))]:
        path, original = tmp_path / name, (tmp_path / name).read_bytes()
        if damage == "remove":
            path.unlink()
        elif damage == "truncate":
            path.write_bytes(original[:-1])
        else:
            path.write_bytes(original[:-3] + bytes([original[-3] ^ 1]) + original[-2:])
        with pytest.raises(UsageError, match=Path(name).name):
            KnowledgeBase(tmp_path)
        path.write_bytes(original)
    assert verify(tmp_path, range(1)) == 3


@pytest.mark.parametrize("name", ["manifest.json", "journal/00000.json"])
def test_damaged_json_is_named(tmp_path: Path, name: str) -> None:
    fill(tmp_path, 1)
    (tmp_path / name).write_text((tmp_path / name).read_text()[:-9])
    with pytest.raises(UsageError, match=Path(name).name):
        KnowledgeBase(tmp_path)


def test_another_setting_is_refused_with_the_fields_that_differ(tmp_path: Path) -> None:
    fill(tmp_path, 1)
    other = Manifest({"sampler": "pndm", "steps": 10, "guidance_scale": 2.5}, COLUMNS, 4)
    with pytest.raises(UsageError) as error:
        Writer(tmp_path, other, {})
    message = str(error.value)
    assert 'sampler: KB has "ddim", this run "pndm"' in message
    assert "guidance_scale" in message and "steps" not in message


def test_newer_formats_missing_kbs_and_small_kbs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no knowledge base"):
        KnowledgeBase(tmp_path / "none")
    fill(tmp_path, 1)
    with pytest.raises(UsageError, match="kb.size=5 is more than the 4"):
        KnowledgeBase(tmp_path, 5)
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 2}))
    with pytest.raises(UsageError, match="format 2"):
        KnowledgeBase(tmp_path)


def test_a_full_disk_is_refused_before_any_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "free")
    writer = Writer(tmp_path, MANIFEST, {})
    monkeypatch.setattr(redi.files.shutil, "disk_usage", lambda _: usage(100))
    with pytest.raises(UsageError, match="free some space"):
        writer.missing(12)
