"""Files that a user gives: read rightly or refused by name, and known by what they hold."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, replace
from io import StringIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from redi.config import Config, DataConfig
from redi.data import digests
from redi.data.coco import captions
from redi.data.digests import files_digest
from redi.data.overlap import overlap
from redi.data.pictures import read_picture
from redi.data.prompt_files import read_prompts
from redi.errors import UsageError
from redi.text import Terminal
from redi.verbs.identity import VERSION, changed, run_identity
from redi.verbs.run import main_job

PROMPTS = ["a red fox", "ein Füchslein", "two\u2028lines\x85of one\x0cprompt", "猫"]


def test_a_line_feed_ends_a_prompt_and_nothing_else_does(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    for start, end in ((b"", "\n"), (b"\xef\xbb\xbf", "\n"), (b"", " \t\r\n"), (b"", "\n\n \n")):
        path.write_bytes(start + end.join([*PROMPTS, ""]).encode())
        assert read_prompts(path, "data.kb_file") == PROMPTS


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet"])
def test_a_column_of_a_table_is_read(tmp_path: Path, suffix: str) -> None:
    path, rows = tmp_path / f"prompts{suffix}", ['with "quotes", comma\tand tab', *PROMPTS]
    if suffix == ".parquet":
        pq.write_table(pa.table({"id": range(6), "caption": [*rows, None]}), path)
    else:
        mark = {".csv": ",", ".tsv": "\t"}[suffix]
        cells = ['"' + row.replace('"', '""') + '"' for row in rows]
        lines = [f"id{mark}caption", *(f"{i}{mark}{cell}" for i, cell in enumerate(cells))]
        path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    assert read_prompts(path, "data.kb_file", "caption") == rows
    with pytest.raises(UsageError, match="columns id, caption: choose one with data.column"):
        read_prompts(path, "data.kb_file")
    with pytest.raises(UsageError, match="data.column='captoin' .*did you mean 'caption'"):
        read_prompts(path, "data.kb_file", "captoin")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.txt", "ein Füchslein".encode("latin-1"), r"is not UTF-8 \(at byte 5\)"),
        ("a.txt", "a fox".encode("utf-16"), "is not UTF-8"),
        ("a.txt", "a fox".encode("utf-16-le"), "zero bytes, as UTF-16"),
        ("a.txt", b"\xef\xbb\xbf \n\n", "holds no prompt"),
        ("a.csv", b"", r"columns \(none\)"),
        ("a.csv", b"caption\n", "holds no prompt"),
        ("a.csv", b"id,caption\n1,a fox, red\n", "3 cells in row 2 and 2 in its heading"),
        ("a.csv", b'caption\n"a fox', "is not a table"),
        ("a.parquet", b"PAR1", "is not a Parquet file"),
    ],
)
def test_what_is_no_list_of_prompts_is_refused_by_name(
    tmp_path: Path, name: str, content: bytes, words: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    column = "caption" if b"," in content else None
    with pytest.raises(UsageError, match=f"data.kb_file='{name}' .*{words}"):
        read_prompts(path, f"data.kb_file={name!r}", column)


def test_numbers_are_no_prompts_and_a_text_has_no_columns(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": [1, 2]}), tmp_path / "a.parquet")
    with pytest.raises(UsageError, match="data.column='id' .* is int64: choose one of text"):
        read_prompts(tmp_path / "a.parquet", "data.kb_file")
    (tmp_path / "a.txt").write_text("a fox")
    with pytest.raises(UsageError, match="data.column='id' does nothing"):
        read_prompts(tmp_path / "a.txt", "data.kb_file", "id")
    with pytest.raises(UsageError, match="is not a file"):
        read_prompts(tmp_path, "data.kb_file")


def test_pictures_of_every_mode_become_the_same_colours(tmp_path: Path) -> None:
    grey = np.tile(np.arange(0, 256, 16, dtype=np.uint8), (16, 1))
    wanted = np.repeat(grey[..., None], 3, axis=2)
    colour = Image.fromarray(wanted)
    modes = {
        "l.png": Image.fromarray(grey),
        "deep.png": Image.fromarray(grey.astype(np.uint16) * 257),
        "deep.tiff": Image.fromarray(grey.astype(np.uint16) * 257),
        "palette.png": colour.quantize(64),
        "opaque.png": colour.convert("RGBA"),
        "cmyk.tiff": colour.convert("CMYK"),
    }
    for name, image in modes.items():
        image.save(tmp_path / name)
        found = read_picture(tmp_path / name)
        assert found.dtype == np.uint8 and abs(found.astype(int) - wanted).max() <= 1, name


def test_pictures_that_cannot_be_read_rightly_are_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("RGBA", (4, 4), (255, 0, 0, 90)).save(tmp_path / "seethrough.png")
    Image.fromarray(np.full((4, 4), 0.5, np.float32)).save(tmp_path / "float.tiff")
    Image.new("RGB", (64, 64)).save(tmp_path / "huge.png")
    Image.new("RGB", (8, 8)).save(tmp_path / "small.png")
    (tmp_path / "half.png").write_bytes((tmp_path / "small.png").read_bytes()[:45])
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 64 * 60)
    for name, words in {
        "seethrough.png": "has transparent parts",
        "float.tiff": "holds numbers, not grey levels",
        "huge.png": "has more than 3840 pixels",
        "half.png": "is not a picture that can be read",
    }.items():
        with pytest.raises(UsageError, match=f"{name}' {words}"):
            read_picture(tmp_path / name)


def test_queries_are_found_in_the_kb_by_prompt_and_noise() -> None:
    kb = ["A red  fox", "a bear", "a cat"]
    found = overlap(["a red fox", "a bear", "a dog"], [0, 1, 0], kb, [0, 0, 0])
    assert (found.queries, found.same_prompt, found.same_prompt_and_noise) == (3, 2, 1)
    assert found.example == "a red fox" and "2 prompts of theirs" in found.sentence()
    found.require_unseen(allowed=True)
    with pytest.raises(UsageError, match="1 of 3 queries .*'a red fox'.*data.allow_overlap=true"):
        found.require_unseen(allowed=False)
    none = overlap(["a dog"], [0], kb, [0, 0, 0])
    none.require_unseen(allowed=False)
    assert none.sentence() == "Evaluating 1 queries: no prompt of theirs is in the KB"


def test_a_coco_caption_of_both_splits_is_no_query(tmp_path: Path) -> None:
    (tmp_path / "annotations").mkdir()
    for split, texts in {"train": ["A  man.", "a dog"], "val": ["a man.", "a cat"]}.items():
        notes = [{"image_id": i, "id": i, "caption": text} for i, text in enumerate(texts)]
        path = tmp_path / "annotations" / f"captions_{split}2014.json"
        path.write_text(json.dumps({"annotations": notes}))
    assert captions(str(tmp_path), "query", 0) == ["a cat"]
    assert sorted(captions(str(tmp_path), "kb", 0)) == ["A man.", "a dog"]


def test_a_digest_is_of_content_and_is_remembered_until_a_file_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(digests, "_WORTH", 1)
    monkeypatch.setattr(digests, "_SETTLED", 0)
    read: list[str] = []
    digest_one = digests.file_digest

    def watched(path: Path) -> str:
        read.append(path.name)
        return digest_one(path)

    monkeypatch.setattr(digests, "file_digest", watched)
    one, two = tmp_path / "one", tmp_path / "two"
    for root in (one, two):
        root.mkdir()
        (root / "a").write_text("first")
        (root / "b").write_text("second")

    def digest(root: Path) -> str:
        return files_digest(root, root.iterdir())

    assert digest(one) == digest(two) and read == ["a", "b"] * 2
    read.clear()
    before = digest(one)
    assert not read
    stamp = (one / "a").stat()
    (one / "a").write_text("other")  # of the same length, and then of the same date
    os.utime(one / "a", ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert digest(one) != before and read == ["a"]


def prompt_config(config: Config, folder: Path) -> Config:
    for role, words in (("kb", "owl fox cat dog"), ("query", "bear wolf")):
        (folder / f"{role}.txt").write_text("\n".join(f"a {w}" for w in words.split()))
    files = {f"{role}_file": str(folder / f"{role}.txt") for role in ("kb", "query")}
    config.data = DataConfig(name="file", num_queries=2, **files)
    config.kb = replace(config.kb, size=4)
    config.sampling.steps, config.metrics.hooks, config.metrics.resamples = 4, ["cost"], 10
    config.metrics.hooks += ["fidelity"]
    config.baselines, config.report.sheet_rows, config.logger.name = [], 0, "none"
    config.reference_root = str(folder / "reference")
    return config


def test_a_run_is_known_by_what_its_files_hold(tiny_config: Config, tmp_path: Path) -> None:
    config = prompt_config(tiny_config, tmp_path)
    before = run_identity(config)
    assert before["version"] == VERSION and set(before["inputs"]) >= {"model", "query prompts"}
    moved = tmp_path / "moved.txt"
    moved.write_text((tmp_path / "kb.txt").read_text().replace("\n", "\r\n") + "\na seal")
    config.data.kb_file = str(moved)  # another name, other line ends, more than is used
    assert run_identity(config) == before
    (tmp_path / "query.txt").write_text("a bear\na crow")
    assert run_identity(config) != before
    config.seed = 1
    assert changed(config)["seed"] == 1 and "kb.root" not in changed(config)


def test_defaults_that_finished_runs_rely_on_are_as_they_were() -> None:
    """Under one version a default means the same for ever: raise `identity.VERSION` with it."""
    usual = asdict(Config())
    known = json.loads((Path(__file__).parent / "defaults.json").read_text())
    assert known["version"] == VERSION
    for group, values in known["defaults"].items():
        assert usual[group] == values or usual[group] | values == usual[group], group


def test_an_edited_prompt_file_is_another_run_and_another_kb(
    tiny_config: Config, tmp_path: Path
) -> None:
    config = prompt_config(tiny_config, tmp_path)
    said = StringIO()

    def run() -> Path:
        said.truncate(0)
        return main_job(config, None, True, Terminal(file=said, width=300), parent=tmp_path / "r")

    first = run()
    provenance = json.loads((first / "results.json").read_text())["provenance"]
    assert provenance["overlap"]["queries"] == 2 and not provenance["overlap"]["same_prompt"]
    assert "no prompt of theirs is in the KB" in said.getvalue()
    assert run() == first and "Already finished" in said.getvalue()
    (tmp_path / "kb.txt").write_text("a swan\na fox\na cat\na dog")
    second = run()
    assert second != first and "Already finished" not in said.getvalue()
    assert len(list((tmp_path / "kb").glob("ddim-*"))) == 2
    config.run_dir = str(first)
    with pytest.raises(UsageError, match="already holds another run .kb prompts: another content"):
        main_job(config, first, True, Terminal(file=said))
    config.run_dir, config.data.query_file = None, config.data.kb_file
    with pytest.raises(UsageError, match="2 of 2 queries are in the KB with the same noise"):
        run()
    config.data.allow_overlap = True
    counted = json.loads((run() / "results.json").read_text())["provenance"]["overlap"]
    assert counted["same_prompt_and_noise"] == 2


def test_another_kb_is_another_point(tiny_config: Config, tmp_path: Path) -> None:
    config = prompt_config(tiny_config, tmp_path)
    config.kb.dir, said = str(tmp_path / "one"), StringIO()
    config.metrics.hooks = ["cost"]  # no plot then
    folders = [main_job(config, None, True, Terminal(file=said), parent=tmp_path / "r")]
    assert main_job(config, None, True, Terminal(file=said), parent=tmp_path / "r") == folders[0]
    config.kb.shard_size, config.kb.dir = 2, str(tmp_path / "two")
    folders.append(main_job(config, None, True, Terminal(file=said), parent=tmp_path / "r"))
    assert folders[0] != folders[1]
