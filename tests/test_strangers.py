"""A knowledge base from a stranger, numbers that are none, and files of somebody else."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from rich.console import Console
from safetensors.numpy import save_file
from stores import COLUMNS, MANIFEST, SIZE, arrays, entries, fill, read_all, replace_file, reseal

import redi.files
from redi.errors import UsageError
from redi.files import locked_alone, sweep_partials, temporary_name
from redi.knowledge_base import (
    Column,
    Entry,
    KnowledgeBase,
    Writer,
    copy_kb,
    leftovers,
    merge,
    verify,
)
from redi.knowledge_base.prompts import laid_out_table
from redi.retrieval import ExactSearch, IndexedSearch, open_search
from redi.retrieval.finders import Scan
from redi.retrieval.keys import ArrayKeys
from redi.retrieval.opening import build_index, finders_from, scans
from redi.verbs.kb_info import describe, verify_folder
from redi.verbs.kb_search import picture_name


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("column", COLUMNS, ids=lambda c: c.dtype)
def test_numbers_that_are_not_finite_are_never_stored(
    tmp_path: Path, column: Column, bad: float
) -> None:
    writer, spoilt = Writer(tmp_path, MANIFEST, {}), arrays(1)
    spoilt[column.group, column.name][2, 1, 0, 0] = bad
    writer.write(0, arrays(0), entries(0))
    step = int(column.group[5:])
    with pytest.raises(UsageError, match=rf"trajectory 6 \('prompt 6'\).*after step {step}.*float"):
        writer.write(1, spoilt, entries(1))
    assert len(read_all(tmp_path)) == SIZE and not leftovers(tmp_path, MANIFEST)


def test_a_state_that_is_not_finite_is_never_handed_out(tmp_path: Path) -> None:
    fill(tmp_path)
    kept = {f"{c.name}": np.zeros((SIZE, *c.shape), c.dtype) for c in COLUMNS[:2]}
    kept["latents"][3, 0, 0, 0] = np.nan
    replace_file(tmp_path, "step_0002", lambda path: save_file(kept, path))
    kb = KnowledgeBase(tmp_path)
    for rows in (None, torch.tensor([[0, 3]])):
        with pytest.raises(UsageError, match="latents after step 2 of trajectory 3 that is not"):
            kb.latents(2, rows)
    assert kb.latents(2, torch.tensor([0, 1, 2, 4])).isfinite().all()
    for kind in ("flat", "pca"):
        with pytest.raises(UsageError, match="the key of trajectory 3 of the KB holds NaN"):
            open_search(kb, "step_0002", "latents", kb.partitions, kind, say=lambda _: None)


@pytest.mark.parametrize("kind", ["exact", "scan", "pca", "sq", "hnsw"])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_search_refuses_what_has_no_distance(kind: str, bad: float) -> None:
    keys, zeros = torch.randn(60, 8, generator=torch.Generator().manual_seed(0)), np.zeros(60, int)

    def search(keys: torch.Tensor) -> ExactSearch | IndexedSearch:
        stored = ArrayKeys(keys.numpy())
        if kind == "exact":
            return ExactSearch(keys, zeros)
        if kind == "scan":
            return IndexedSearch(stored, zeros, scans(stored, zeros))
        return IndexedSearch(stored, zeros, finders_from(kind, build_index(stored, zeros, kind)))

    asked = keys[:3].clone()
    assert search(keys).search(asked, [0] * 3, 2).rows[:, 0].tolist() == [0, 1, 2]
    with pytest.raises(UsageError, match="retrieval.neighbours=61"):
        search(keys).search(asked, [0] * 3, 61)
    asked[1, 3] = bad
    with pytest.raises(UsageError, match="sample 1 of the batch is not finite"):
        search(keys).search(asked, [0] * 3, 2)
    keys[37, 2] = bad
    with pytest.raises(UsageError, match="trajectory 37"):
        search(keys).search(keys[:1], [0], 2)
    keys[37, 2] = 1e30  # finite, and its square is not
    with pytest.raises(UsageError, match="trajectory 37"):
        search(keys).search(keys[:1], [0], 2)


@pytest.mark.parametrize("kind", ["pca", "ivf", "sq", "hnsw", "flat"])
def test_every_kind_but_pq_carries_one_trajectory(tmp_path: Path, kind: str) -> None:
    kb = KnowledgeBase(fill(tmp_path, 1), 1)
    search = open_search(kb, "step_0002", "latents", kb.partitions, kind, say=lambda _: None)
    assert search.search(kb.latents(2), [0], 1).rows.tolist() == [[0]]
    with pytest.raises(UsageError, match="retrieval.index=pq needs 16 .* has 1"):
        open_search(kb, "step_0002", "latents", kb.partitions, "pq", say=lambda _: None)


FORGED_HEADERS = {
    "another type": lambda kept: kept | {"latents": kept["latents"].astype("f2")},
    "another shape": lambda kept: kept | {"latents": kept["latents"].reshape(SIZE, 3, 2, 3)},
    "fewer rows": lambda kept: {name: array[:2] for name, array in kept.items()},
    "a column less": lambda kept: {"latents": kept["latents"]},
    "a column more": lambda kept: kept | {"more": kept["latents"]},
    "names exchanged": lambda kept: {
        "latents": kept["prediction"], "prediction": kept["latents"]
    },
}  # fmt: skip


@pytest.mark.parametrize("forgery", FORGED_HEADERS)
def test_a_header_that_does_not_fit_the_manifest_is_refused(tmp_path: Path, forgery: str) -> None:
    fill(tmp_path)
    kept = {c.name: np.ones((SIZE, *c.shape), c.dtype) for c in COLUMNS[:2]}
    forged = FORGED_HEADERS[forgery](kept)
    replace_file(
        tmp_path,
        "step_0002",
        lambda path: save_file({k: v.copy() for k, v in forged.items()}, path),
    )
    with pytest.raises(UsageError, match="damaged|no whole number"):
        read_all(tmp_path)


def test_an_offset_that_leads_elsewhere_is_refused(tmp_path: Path) -> None:
    fill(tmp_path)

    def shift(path: Path) -> None:
        data = path.read_bytes()
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + length])
        for item in header.values():
            item["data_offsets"] = [n - 8 for n in item["data_offsets"]]
        text = json.dumps(header).encode().ljust(length)
        path.write_bytes(data[:8] + text + data[8 + length :])

    replace_file(tmp_path, "step_0002", shift)
    with pytest.raises(UsageError, match="step_0002.*damaged"):
        read_all(tmp_path)


def table(path: Path, **columns: Any) -> None:
    pq.write_table(pa.table(columns), path)


FORGED_TABLES: dict[str, Callable[[Path], object]] = {
    "three rows": lambda path: path.write_bytes(laid_out_table(entries(0)[:3])),
    "five rows": lambda path: path.write_bytes(laid_out_table([*entries(0), *entries(1)][:5])),
    "texts for numbers": lambda path: table(
        path, index=list("abcd"), prompt=list("abcd"), noise_id=[0] * 4
    ),
    "a missing prompt": lambda path: table(
        path, index=range(4), prompt=["a", None, "b", "c"], noise_id=[0] * 4
    ),
    "a missing number": lambda path: table(
        path, index=range(4), prompt=list("abcd"), noise_id=[0, None, 0, 0]
    ),
    "a column less": lambda path: table(path, index=range(4), prompt=list("abcd")),
    "junk": lambda path: path.write_bytes(b"PAR1" + bytes(200) + b"PAR1"),
    "millions of rows": lambda path: pq.write_table(
        pa.table(
            {
                "index": pa.array(np.zeros(300_000, "i8")),
                "prompt": pa.array(["x" * 60] * 300_000),
                "noise_id": pa.array(np.zeros(300_000, "i8")),
            }
        ),
        path,
    ),
}  # fmt: skip


@pytest.mark.parametrize("forgery", FORGED_TABLES)
def test_a_prompt_table_that_does_not_fit_the_shard_is_refused(
    tmp_path: Path, forgery: str
) -> None:
    fill(tmp_path)
    replace_file(tmp_path, "prompts", FORGED_TABLES[forgery])
    with pytest.raises(UsageError, match="prompts/00000.*damaged"):
        read_all(tmp_path)


NAMES = ("../../x.safetensors", "/tmp/x.safetensors", "step_0002/../../x.safetensors", "",
         "step_0002/00001-0123456789ab.safetensors", "journal/00000.safetensors", "step_0002",
         "step_0002/00000.parquet", "step_0002/00000-0123456789ab.safetensors\n",
         "step_0002/٠٠٠٠٠.safetensors")  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_names_in_a_journal_never_lead_out_of_the_folder(tmp_path: Path, name: str) -> None:
    source, bait = fill(tmp_path / "kb"), tmp_path / "x.safetensors"
    victim = next(iter(json.loads((source / "journal" / "00000.json").read_text())["files"]))
    shutil.copy(source / victim, bait)
    before = bait.read_bytes()

    def rename(content: dict[str, Any]) -> None:
        content["files"][name] = content["files"].pop(victim)

    reseal(source / "journal" / "00000.json", rename)
    for use in (
        read_all,
        lambda root: verify(root, range(1)),
        lambda root: copy_kb(root, tmp_path / "deep" / "er" / "copy"),
        lambda root: merge(tmp_path / "deep" / "er" / "merged", [root]),
    ):
        with pytest.raises(UsageError, match=r"00000.json' is damaged \(.* is no file of shard 0"):
            use(source)
    assert bait.read_bytes() == before and not (tmp_path / "deep").exists()


@pytest.mark.parametrize("what", ["manifest.json", "journal", "journal/00000.json", "step_0002",
                                  "prompts", "a shard's file"])  # fmt: skip
def test_links_are_refused(tmp_path: Path, what: str) -> None:
    root, outside = fill(tmp_path / "kb"), tmp_path / "outside"
    path = min((root / "step_0005").iterdir()) if what.startswith("a ") else root / what
    path.rename(outside)
    path.symlink_to(outside)
    for use in (read_all, lambda root: verify(root, range(1)),
                lambda root: copy_kb(root, tmp_path / "copy")):  # fmt: skip
        with pytest.raises(UsageError, match=f"{path.name}.*link"):
            use(root)
    (tmp_path / "mine").symlink_to(fill(tmp_path / "real"))  # what the user names is followed
    assert len(read_all(tmp_path / "mine")) == 2 * SIZE


def test_nothing_is_written_through_a_link(tmp_path: Path) -> None:
    root, elsewhere = fill(tmp_path / "kb", 1), tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.rmtree(root / "step_0005")
    (root / "step_0005").symlink_to(elsewhere)
    with pytest.raises(UsageError, match="step_0005' is a link"):
        fill(root, 2)
    assert not list(elsewhere.iterdir())


def without(name: str) -> Callable[[dict[str, Any]], None]:
    return lambda content: content.pop(name)


def having(**given: Any) -> Callable[[dict[str, Any]], None]:
    return lambda content: content.update(given)


LAYOUT = [[c.group, c.name, list(c.shape), c.dtype] for c in COLUMNS]
MANIFESTS: dict[str, Callable[[dict[str, Any]], Any]] = {
    **{f"no {n}": without(n) for n in ("identity", "columns", "shard_size", "made_with")},
    **{f"shard size {n}": having(shard_size=n) for n in (0, -4, 1 << 62, 4.5, "4", True, None)},
    **{
        f"shape {s}": having(columns=[["step_0002", "latents", s, "float32"]])
        for s in ([1 << 40, 1 << 40], [-2, 3], [0], [2.5], "23", None, [True], [[2]], [1] * 99)
    },
    "type object": having(columns=[["step_0002", "latents", [2], "object"]]),
    "type list": having(columns=[["step_0002", "latents", [2], ["float32"]]]),
    "a group that leads out": having(columns=[["../x", "latents", [2], "float32"]]),
    "a group of something else": having(columns=[["journal", "latents", [2], "float32"]]),
    "a number for a group": having(columns=[[3, "latents", [2], "float32"]]),
    "the same column twice": having(columns=[LAYOUT[0], LAYOUT[0]]),
    "no columns": having(columns=[]),
    "text for columns": having(columns="abcd"),
    "text for identity": having(identity="abcd"),
    "a huge key step": having(identity={"key_step": 1 << 80}),
    "a text for the key step": having(identity={"key_step": "2"}),
    "a list for the sampler": having(identity={"sampler": ["ddim"]}),
    "an origin without rows": having(origin={"of": "x", "chosen": "y"}),
    "an origin of many rows": having(origin={"rows": 1e300, "of": "x", "chosen": "y"}),
    "format 99": having(format=99),
    "a text for the format": having(format="two"),
}


@pytest.mark.parametrize("forgery", MANIFESTS)
def test_a_forged_manifest_is_one_sentence(tmp_path: Path, forgery: str) -> None:
    reseal(fill(tmp_path) / "manifest.json", MANIFESTS[forgery])
    for use in (read_all, lambda root: describe(root, Console(quiet=True)),
                lambda root: merge(tmp_path / "m", [root])):  # fmt: skip
        with pytest.raises(UsageError, match=r"manifest\.json'"):
            use(tmp_path)


JOURNALS: dict[str, Callable[[dict[str, Any]], Any]] = {
    **{f"no {n}": without(n) for n in ("rows", "files", "errors")},
    **{f"rows {n}": having(rows=n) for n in (0, -1, SIZE + 1, 1 << 70, 2.0, "4", None, True)},
    "no files": having(files={}),
    "a list of files": having(files=["a"]),
    "errors without numbers": having(errors={"a": "b"}),
    "negative errors": having(errors={"a": -1}),
    "nothing": lambda content: {"a": 1},
    **{
        f"bytes {n}": lambda content, n=n: (
            [f.update(bytes=n) for f in content["files"].values()] and None
        )
        for n in (-1, 0, 1 << 80, "9", None, 1.5)
    },
    "no hash": lambda content: [f.update(sha256=7) for f in content["files"].values()] and None,
}


@pytest.mark.parametrize("forgery", JOURNALS)
def test_a_forged_journal_is_one_sentence(tmp_path: Path, forgery: str) -> None:
    reseal(fill(tmp_path) / "journal" / "00000.json", JOURNALS[forgery])
    for use in (read_all, lambda root: verify_folder(root, Console(quiet=True)),
                lambda root: copy_kb(root, tmp_path / "copy")):  # fmt: skip
        with pytest.raises(UsageError, match=r"00000\.json'"):
            use(tmp_path)


@pytest.mark.parametrize("data", [b"", b"[" * 200_000, b"null", b"[1]", b'{"a": NaN}', b"\xff\xfe"])
@pytest.mark.parametrize("name", ["manifest.json", "journal/00000.json"])
def test_junk_is_one_sentence(tmp_path: Path, name: str, data: bytes) -> None:
    (fill(tmp_path) / name).write_bytes(data)
    with pytest.raises(UsageError, match=Path(name).name):
        read_all(tmp_path)
    os.truncate(tmp_path / name, 1 << 40)  # a terabyte of nothing
    with pytest.raises(UsageError, match=f"{Path(name).name}.* more than"):
        read_all(tmp_path)


def test_verify_calls_nothing_deletable_that_it_does_not_know(tmp_path: Path) -> None:
    root, console = fill(tmp_path), Console(record=True, width=500)
    for name in ("fits/corrected-0123456789ab.safetensors", "index/x/arrays-0.safetensors",
                 "step_0002/mine.safetensors", "notes/a.parquet", "step_0002/00000.txt",
                 "prompts/00009.parquet"):  # fmt: skip
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"mine")
    verify_folder(root, console)
    assert "delete" not in console.export_text() and not leftovers(root, MANIFEST)
    lost = [root / "step_0002" / "00000-0123456789ab.safetensors", root / "prompts" / ".partial-x"]
    for path in lost:
        path.write_bytes(b"")
    assert leftovers(root, MANIFEST) == sorted(lost)
    first, second = (root / "journal" / f"0000{i}.json" for i in range(2))
    for data in (b"", first.read_bytes()):  # an empty entry, one of another shard
        second.write_bytes(data)
        with pytest.raises(UsageError, match="00001.json"):
            verify_folder(root, console)
        assert leftovers(root, MANIFEST) == sorted(lost)


def test_a_kb_is_not_started_among_other_files(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    for use in (
        lambda: fill(tmp_path),
        lambda: merge(tmp_path, [fill(tmp_path.parent / "source")]),
    ):
        with pytest.raises(UsageError, match="holds something else"):
            use()
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]
    for root, words in (
        (tmp_path / "notes.txt", "a file stands"),
        (tmp_path / "notes.txt" / "kb", "a file stands"),
        (tmp_path / ("x" * 300), "longer than"),
        (Path("/"), "holds something else"),
    ):
        with pytest.raises(UsageError, match=words):
            fill(root)


def test_a_billion_trajectories_take_no_memory(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="GB free and the KB needs"):
        Writer(tmp_path, MANIFEST, {}).missing(10**12)


def test_temporary_files_of_other_machines_and_containers_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()

    def left(name: str) -> Path:
        path = temporary_name(tmp_path / name)
        path = path.with_name(path.name.replace(f"-{os.getpid()}-", f"-{process.pid}-"))
        path.touch()
        return path

    mine = left("mine")
    redi.files._place.cache_clear()
    real = os.readlink
    monkeypatch.setattr(os, "readlink", lambda p, **k: "pid:[1]" if "ns/pid" in str(p) else real(p))
    other = left("other")  # a container with the same host name
    monkeypatch.undo()
    redi.files._place.cache_clear()
    alive = temporary_name(tmp_path / "alive")
    alive.touch()
    assert sweep_partials(tmp_path) == 1
    assert sorted(tmp_path.iterdir()) == sorted([other, alive]) and not mine.exists()


def test_a_lock_is_refused_while_another_process_holds_it(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from redi.files import locked_alone\n"
        "with locked_alone(Path(sys.argv[1]), 'busy'): print('held', flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "run" / ".lock")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert other.stdout is not None and other.stdout.readline() == "held\n"
    with pytest.raises(UsageError, match="busy"), locked_alone(tmp_path / "run/.lock", "busy"):
        pass
    other.kill()
    other.communicate()
    with locked_alone(tmp_path / "run" / ".lock", "busy"):
        pass  # a dead process lets go


def test_info_prints_prompts_as_they_are(tmp_path: Path) -> None:
    prompt = "[/b] [red]x[/red] \x1b[31m :smile:"
    writer = Writer(tmp_path / "[kb]", MANIFEST, {})
    writer.write(0, arrays(0), [Entry(i, prompt, 0) for i in range(SIZE)])
    console = Console(record=True, width=300)
    describe(tmp_path / "[kb]", console)
    text = console.export_text()
    assert r"[/b] [red]x[/red] \x1b[31m :smile:" in text and "[kb]" in text and "\x1b" not in text


def test_pictures_of_different_prompts_have_different_names() -> None:
    prompts = ["猫", "犬", "a cat", "a  cat", "A cat", "x" * 300, "x" * 301, "😀"]
    names = {picture_name(prompt) for prompt in prompts}
    assert len(names) == len(prompts) and all(len(name) < 80 for name in names)


def test_a_scan_names_the_trajectory() -> None:
    keys = torch.zeros(30, 4)
    keys[20] = torch.nan
    with pytest.raises(UsageError, match="trajectory 20"):
        Scan(ArrayKeys(keys.numpy()), torch.arange(30)[10:]).find(torch.zeros(1, 4), 2)
