"""Knowledge bases that go to the Hugging Face hub and come from there."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
import yaml
from huggingface_hub import constants
from rich.console import Console
from stores import fill

import redi
from redi.composition import compose_config
from redi.config import Config
from redi.errors import UsageError
from redi.knowledge_base import KnowledgeBase, Manifest
from redi.knowledge_base.hub import kb_folder, opened
from redi.report.card import write_card
from redi.verbs.kb import kb_action
from redi.verbs.kb_folders import folder_action
from redi.verbs.named_kb import named_kb
from redi.verbs.run import main_job


def kb_command(action: str, *arguments: object) -> str:
    console = Console(record=True, width=300)
    folder_action(action, [str(argument) for argument in arguments], console)
    return console.export_text()


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    kb_command("export", fill(tmp_path / "kb"), tmp_path / "out", "license=apache-2.0")
    return tmp_path / "out"


@pytest.fixture
def hub(exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A hub with one KB, which can be taken away; notes what it is asked for."""
    asked = list[Any]()

    def download(
        name: str, repo_type: str, revision: str | None, local_dir: Path, **options: Any
    ) -> str:
        asked.append((name, repo_type, revision))
        if name != "someone/kb":
            raise OSError("404")
        return shutil.copytree(exported, local_dir, dirs_exist_ok=True)

    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    return asked


def test_a_card_says_setting_licence_and_use(exported: Path) -> None:
    text = (exported / "README.md").read_text("utf-8")
    head = yaml.safe_load(text.split("---")[1])
    assert head["license"] == "apache-2.0" and "Licence: apache-2.0." in text
    assert head["configs"] == [{"config_name": "prompts", "data_files": "prompts/*.parquet"}]
    (identity,) = re.findall("^```json\n(.*?)^```", text, re.M | re.S)
    assert json.loads(identity) == Manifest.read(exported).identity
    assert "value_step=5)" in text and "8 finished trajectories" in text


def test_what_is_not_said_is_not_made_up(tmp_path: Path) -> None:
    told = kb_command("export", fill(tmp_path / "kb"), tmp_path / "out")
    assert "hf upload OWNER/NAME" in told and "--repo-type dataset" in told
    assert "no licence is named: license=ID" in told
    text = (tmp_path / "out" / "README.md").read_text("utf-8")
    assert yaml.safe_load(text.split("---")[1])["license"] == "unknown"
    assert "not stated" in text
    other = Manifest(
        {"steps": 5, "prompt": "```\n# heading"}, Manifest.read(tmp_path / "out").columns, 4
    )
    write_card(tmp_path / "out", other)
    text = (tmp_path / "out" / "README.md").read_text("utf-8")
    assert text.count("```") == 6 and '"best", num_inference_steps=5)' in text
    for option, words in (
        ("license=Apache 2", "is no name of a licence"),
        ("license=", "is no name of a licence"),
        ("size=4", "kb export has no option 'size'; it has license="),
    ):
        with pytest.raises(UsageError, match=words):
            kb_command("export", tmp_path / "kb", tmp_path / "again", option)


def test_a_kb_of_the_hub_is_imported_and_opened(hub: list[Any], tmp_path: Path) -> None:
    kb_command("import", "hf://someone/kb@v1", tmp_path / "mine")
    own, mine = KnowledgeBase(tmp_path / "kb"), KnowledgeBase(tmp_path / "mine")
    assert hub == [("someone/kb", "dataset", "v1")]
    assert mine.content_hash == own.content_hash == opened("hf://someone/kb").content_hash
    assert torch.equal(opened("hf://someone/kb").latents(5), own.latents(5))
    assert hub[1:] == [("someone/kb", "dataset", None)] * 2
    assert "│ 8 in " in kb_command("info", "hf://someone/kb")
    assert opened(mine) is mine and kb_folder("some/folder") == Path("some/folder")


def test_a_run_uses_a_kb_of_the_hub_as_it_is(
    hub: list[Any], exported: Path, tiny_config: Config, tmp_path: Path
) -> None:
    quiet, results = Console(quiet=True), []
    tiny_config.data.num_queries, tiny_config.baselines = 2, []
    tiny_config.metrics.hooks = ["cost", "fidelity"]
    kb_action("build", tiny_config, quiet)
    (built,) = (tmp_path / "kb").glob("ddim-*")
    shutil.rmtree(exported)
    kb_command("export", built, exported, "license=apache-2.0")
    name = compose_config("run", ["kb.dir=hf://someone/kb@v2"]).kb.dir
    for number, place in enumerate((str(built), name)):
        config = replace(tiny_config, kb=replace(tiny_config.kb, dir=place))
        folder = main_job(config, tmp_path / f"run{number}", True, quiet)
        results.append(json.loads((folder / "results.json").read_text()))
    assert hub == [("someone/kb", "dataset", "v2")]  # once for all that a run does with it
    local, remote = results
    assert remote["config"]["kb"]["dir"] == name and remote["points"][1]["method"] == "redi"
    for key in ("config_hash", "kb_hash"):
        assert remote["provenance"][key] == local["provenance"][key]
    for mine, theirs in zip(remote["points"], local["points"], strict=True):
        assert (mine["calls"], mine.get("psnr")) == (theirs["calls"], theirs.get("psnr"))

    grown = replace(tiny_config, kb=replace(tiny_config.kb, dir=name, size=12))
    with pytest.raises(UsageError, match="kb.size=12 is more than the 8 trajectories"):
        main_job(grown, tmp_path / "grown", True, quiet)
    with pytest.raises(UsageError, match=f"{name}' is a KB of the hub, which is not built into"):
        kb_action("build", grown, quiet)
    assert len(KnowledgeBase(named_kb(grown.kb))) == 8
    grown.kb.dir = "hf://someone/else"
    with pytest.raises(UsageError, match="cannot be had .OSError.: .*'hf download someone/else"):
        main_job(grown, tmp_path / "grown", True, quiet)
    assert not (tmp_path / "grown").exists()


def test_a_kb_that_cannot_be_had_is_one_sentence(
    hub: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, words in (
        ("hf://someone", "is no id of the hub"),
        ("hf://someone/else", "cannot be had .OSError.: .*'hf download someone/else"),
    ):
        with pytest.raises(UsageError, match=words) as error:
            redi.generators(name)
        assert "\n" not in str(error.value)
    opened("hf://someone/kb")
    monkeypatch.undo()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "home"))
    assert len(opened("hf://someone/kb")) == 8  # downloaded once, found without a network
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "empty"))
    with pytest.raises(UsageError, match="cannot be had .LocalEntryNotFoundError.: where there is"):
        kb_command("import", "hf://someone/kb", tmp_path / "mine")
