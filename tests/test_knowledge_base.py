"""The store: what is read is what was written, and nothing damaged is read."""

from __future__ import annotations

import json
import re
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from safetensors.numpy import load_file

import redi.files
from redi.errors import UsageError
from redi.knowledge_base import (
    Choice,
    Column,
    Entry,
    KnowledgeBase,
    Manifest,
    Writer,
    copy_kb,
    merge,
    subset,
    verify,
)
from redi.knowledge_base.manifest import FORMAT
from redi.reading import sealed
from redi.verbs.kb_info import describe

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
    first = whole.first(count)
    assert first.prompts == kb.prompts and first.content_hash == kb.content_hash
    assert kb.first(count + 1) is kb


def test_states_are_read_by_step_and_row(tmp_path: Path) -> None:
    identity = {"key_step": 2, "noise_policy": "bank"}
    history = Column("step_0005", "history", (1, 2, 3))
    columns = (*COLUMNS, history, Column("prompt", "embedding", (5,)))
    written = {(c.group, c.name): np.random.default_rng(i).normal(size=(4, *c.shape)).astype("f4")
               for i, c in enumerate(columns)}  # fmt: skip
    Writer(tmp_path, Manifest(identity, columns, 4), {}).write(0, written, entries(0))
    kb, rows = KnowledgeBase(tmp_path, 3), torch.tensor([[2, 0], [1, 1]])
    assert (kb.key_step, kb.stored_steps, kb.latent_shape) == (2, (2, 5), (2, 3))
    assert (
        kb.partitions.tolist() == [0, 1, 2]
        and not KnowledgeBase(fill(tmp_path / "a"), 3).partitions.any()
    )
    for read, key in (
        (lambda *r: kb.latents(5, *r), ("step_0005", "latents")),
        (lambda *r: kb.prediction(2, *r), ("step_0002", "prediction")),
        (lambda *r: kb.history(5, *r), ("step_0005", "history")),
        (kb.embeddings, ("prompt", "embedding")),
    ):
        assert np.array_equal(read().numpy(), written[key][:3])
        assert np.array_equal(read(rows).numpy(), written[key][rows.numpy()])
    assert kb.stores(5, "history") and not kb.stores(2, "history")
    with pytest.raises(UsageError, match=r"no latents after step 3 \(stored: 2, 5\)"):
        kb.latents(3)
    with pytest.raises(UsageError, match=r"no history after step 2 \(stored: 5\)"):
        kb.history(2, rows)


def test_files_are_safetensors(tmp_path: Path) -> None:
    fill(tmp_path, 1)
    (path,) = (tmp_path / "step_0002").iterdir()
    read = load_file(path)
    assert set(read) == {"latents", "prediction"}
    for name, array in read.items():
        assert np.array_equal(array, arrays(0)["step_0002", name])


def test_extending_never_rewrites(tmp_path: Path) -> None:
    fill(tmp_path, 1)
    before = content(tmp_path)
    fill(tmp_path, 3)
    after = content(tmp_path)
    assert all(after[name] == data for name, data in before.items())


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
def test_a_flipped_byte_anywhere_in_json_is_named(tmp_path: Path, name: str) -> None:
    path = fill(tmp_path, 1) / name
    original = path.read_bytes()
    for place in range(0, len(original) - 1, 7):
        path.write_bytes(original[:place] + bytes([original[place] ^ 2]) + original[place + 1 :])
        try:
            changed = json.loads(path.read_text()) != json.loads(original)
        except (ValueError, UnicodeDecodeError):
            changed = True
        if changed:  # a flip may also turn one kind of white space into another
            with pytest.raises(UsageError, match=Path(name).name):
                KnowledgeBase(tmp_path)
    path.write_bytes(original[:-9])
    with pytest.raises(UsageError, match=Path(name).name):
        KnowledgeBase(tmp_path)


def test_format_1_is_read_and_grown(tmp_path: Path) -> None:
    """A KB as the first version wrote it: plain names, no checksums, files only in its journal."""
    fill(tmp_path, 1)
    journal = tmp_path / "journal" / "00000.json"
    files = {}
    for name, described in json.loads(journal.read_text())["files"].items():
        plain = re.sub(r"-[0-9a-f]{12}", "", name)
        (tmp_path / name).rename(tmp_path / plain)
        files[plain] = described
    journal.write_text(json.dumps(files))
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    kept = {k: manifest[k] for k in ("identity", "columns", "shard_size", "made_with")}
    (tmp_path / "manifest.json").write_text(json.dumps({"format": 1, **kept}))
    assert len(KnowledgeBase(tmp_path)) == 4 and verify(tmp_path, range(1)) == 3
    kb = KnowledgeBase(fill(tmp_path, 2))
    assert json.loads((tmp_path / "manifest.json").read_text())["format"] == FORMAT
    expected = np.concatenate([arrays(s)["step_0005", "latents"] for s in range(2)])
    assert np.array_equal(kb.column("step_0005", "latents").numpy(), expected)


@pytest.mark.parametrize(("dtype", "bound"), [("float16", 6e-4), ("int8", 1e-2)])
def test_precisions_round_trip_within_their_stated_error(
    tmp_path: Path, dtype: str, bound: float
) -> None:
    column = Column("step_0002", "latents", (4, 8, 8), dtype)
    manifest = Manifest({}, (column,), 4)
    array = np.random.default_rng(0).normal(size=(4, 4, 8, 8)).astype("f4")
    array[:, 1] *= 100  # a scale per channel: one large channel costs the others nothing
    array[0, 2] = 0
    Writer(tmp_path, manifest, {}).write(0, {("step_0002", "latents"): array}, entries(0))
    kb = KnowledgeBase(tmp_path)
    read = kb.column("step_0002", "latents").numpy()
    error = np.linalg.norm(read - array) / np.linalg.norm(array)
    stated = kb.journals[0].errors["step_0002/latents"]
    assert 0 < error <= bound and abs(stated - error) < 1e-6
    small = np.abs(read[:, 0] - array[:, 0]).max() / np.abs(array[:, 0]).max()
    assert small <= bound
    rows = torch.tensor([[3, 0]])
    assert np.array_equal(kb.gather("step_0002", "latents", rows)[0].numpy(), read[[3, 0]])
    with pytest.raises(UsageError, match="full precision|not finite after step 2"):
        bad = np.full((4, 4, 8, 8), np.nan if dtype == "int8" else 1e6, "f4")
        Writer(tmp_path, manifest, {}).write(1, {("step_0002", "latents"): bad}, entries(1))


def test_parts_merge_into_what_one_writer_makes(tmp_path: Path) -> None:
    whole = fill(tmp_path / "whole", 4)
    for name, first in (("a", 0), ("b", 8)):
        writer = Writer(tmp_path / name, MANIFEST, {})
        for shard in writer.missing(8, first):
            writer.write(shard, arrays(shard), entries(shard))
    with pytest.raises(UsageError, match="part that starts at shard 2"):
        KnowledgeBase(tmp_path / "b")
    with pytest.raises(UsageError, match="kb.first=3 does not start a shard"):
        Writer(tmp_path / "a", MANIFEST, {}).missing(4, 3)
    assert merge(tmp_path / "all", [tmp_path / "b", tmp_path / "a"]) == 4
    assert content(tmp_path / "all") == content(whole)
    assert merge(tmp_path / "all", [tmp_path / "a"]) == 0
    assert copy_kb(whole, tmp_path / "copy") == 4 and content(tmp_path / "copy") == content(whole)

    other = Writer(tmp_path / "other", MANIFEST, {})
    other.write(1, arrays(7), entries(1))
    with pytest.raises(UsageError, match="both hold the trajectories 4 to 7"):
        merge(tmp_path / "all", [tmp_path / "other"])
    assert content(tmp_path / "all") == content(whole)
    victim = next((tmp_path / "b" / "step_0005").iterdir())
    victim.write_bytes(victim.read_bytes()[:-1] + b"x")
    with pytest.raises(UsageError, match="hash differs"):
        merge(tmp_path / "new", [tmp_path / "a", tmp_path / "b"])


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_a_subset_holds_the_chosen_rows_bit_for_bit(tmp_path: Path, dtype: str) -> None:
    columns = tuple(replace(c, dtype=dtype) for c in COLUMNS)
    manifest = replace(MANIFEST, columns=columns)
    writer = Writer(tmp_path / "whole", manifest, {})
    for shard in range(3):
        writer.write(shard, arrays(shard), entries(shard))
    kb = KnowledgeBase(tmp_path / "whole")
    for choice, expected in (
        (Choice(noise=1), [1, 4, 7, 10]),
        (Choice(containing="PROMPT 1"), [1, 10, 11]),
        (Choice(size=6), [0, 1, 2, 3, 4, 5]),
    ):
        rows, target = choice.rows(kb), tmp_path / repr(choice)
        assert rows == expected
        subset(kb, target, rows)
        taken = KnowledgeBase(target)
        assert taken.indices == rows and taken.prompts == [f"prompt {i}" for i in rows]
        for column in columns:
            key = (column.group, column.name)
            assert torch.equal(taken.column(*key), kb.column(*key)[rows])
        with pytest.raises(UsageError, match="cannot be grown"):
            Writer(target, manifest, {})
        with pytest.raises(UsageError, match="is a subset"):
            merge(tmp_path / "merged", [target])
    assert len(set(Choice(size=5, seed=1).rows(kb))) == 5
    with pytest.raises(UsageError, match="has containing='nothing': choose"):
        Choice(containing="nothing").rows(kb)
    with pytest.raises(UsageError, match="has containing='nothing' and noise=2: choose"):
        Choice(containing="nothing", noise=2).rows(kb)
    with pytest.raises(UsageError, match="size=5 does not fit"):
        Choice(size=5, noise=1).rows(kb)


def test_info_says_in_words_where_a_subset_comes_from(tmp_path: Path) -> None:
    kb, console = KnowledgeBase(fill(tmp_path / "whole")), Console(record=True, width=200)
    subset(kb, tmp_path / "part", [0, 3, 7])
    describe(tmp_path / "part", console)
    expected = f"subset: 3 trajectories of the KB with content {kb.content_hash[:12]}"
    assert expected in console.export_text()


def test_two_writers_of_one_shard_leave_the_first_one(tmp_path: Path) -> None:
    first, second = Writer(tmp_path, MANIFEST, {}), Writer(tmp_path, MANIFEST, {})
    assert first.write(0, arrays(0), entries(0))
    before = content(tmp_path)
    assert not second.write(0, arrays(5), entries(0))  # as from another machine's rounding
    assert not second.write(0, arrays(0), entries(0))
    assert content(tmp_path) == before and verify(tmp_path, range(1)) == 3


def test_a_truncated_file_is_an_error_and_not_a_crash(tmp_path: Path) -> None:
    kb = KnowledgeBase(fill(tmp_path, 1))
    path = next((tmp_path / "step_0005").iterdir())
    with open(path, "r+b") as file:  # after opening: sizes were right then
        file.truncate(path.stat().st_size - 40)
    with pytest.raises(UsageError, match="truncated"):
        kb.column("step_0005", "latents")


def test_another_setting_is_refused_with_the_fields_that_differ(tmp_path: Path) -> None:
    fill(tmp_path, 1)
    other = Manifest({"sampler": "pndm", "steps": 10, "guidance_scale": 2.5}, COLUMNS, 4)
    with pytest.raises(UsageError) as error:
        Writer(tmp_path, other, {})
    message = str(error.value)
    assert 'sampler: KB has "ddim", this run "pndm"' in message
    assert "guidance_scale" in message and "steps" not in message


def test_format_2_is_read_sealed_and_becomes_3_before_a_short_shard_is_added(
    tmp_path: Path,
) -> None:
    """A reader of format 2 takes a short shard for the last one: it has to refuse instead."""
    fill(tmp_path, 1)
    path = tmp_path / "manifest.json"
    content = json.loads(path.read_text()) | {"format": 2}
    del content["checksum"]
    path.write_text(json.dumps(content))
    with pytest.raises(UsageError, match="was altered"):
        KnowledgeBase(tmp_path)
    path.write_text(json.dumps(sealed(content)))
    assert len(KnowledgeBase(tmp_path)) == 4 and Manifest.read(tmp_path).format == 2
    Writer(tmp_path, Manifest.read(tmp_path), {})
    assert Manifest.read(tmp_path).format == FORMAT == 3
    digest = Manifest.read(tmp_path).digest
    assert digest == replace(Manifest.read(tmp_path), format=2).digest  # no content of the KB


def test_newer_formats_missing_kbs_and_small_kbs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no knowledge base"):
        KnowledgeBase(tmp_path / "none")
    fill(tmp_path, 1)
    with pytest.raises(UsageError, match="kb.size=5 is more than the 4"):
        KnowledgeBase(tmp_path, 5)
    path = tmp_path / "manifest.json"
    newer = {"format": FORMAT + 1, "checksum": None}
    path.write_text(json.dumps(json.loads(path.read_text()) | newer))
    with pytest.raises(UsageError, match=f"format {FORMAT + 1}, this version reads 1 to {FORMAT}"):
        KnowledgeBase(tmp_path)


def test_a_full_disk_is_refused_before_any_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "free")
    writer = Writer(tmp_path, MANIFEST, {})
    monkeypatch.setattr(redi.files.shutil, "disk_usage", lambda _: usage(100))
    with pytest.raises(UsageError, match="free some space"):
        writer.missing(12)
