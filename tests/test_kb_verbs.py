"""`redi kb`: refused before any work, in one sentence, or done."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from redi.config import Config
from redi.errors import UsageError
from redi.knowledge_base import KnowledgeBase
from redi.verbs.assemble import check
from redi.verbs.kb import kb_action


def changed(config: Config, **kb: object) -> Config:
    return replace(config, kb=replace(config.kb, **kb))


def test_a_kb_is_built_from_prompts_alone(tiny_config: Config, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("\n".join(f"[/b] prompt {i}" for i in range(8)))
    data = replace(tiny_config.data, name="file", kb_file=str(prompts))
    config = replace(changed(tiny_config, dir=str(tmp_path / "kb")), data=data)
    with pytest.raises(UsageError, match="data.query_file"):
        check(config)
    console = Console(record=True, width=200)
    kb_action("build", config, console)
    assert KnowledgeBase(tmp_path / "kb").prompts[3] == "[/b] prompt 3"
    assert "first: [/b] prompt 0" in console.export_text()
    with pytest.raises(UsageError, match="the prompt is empty"):
        kb_action("search", config, console, " ")
    with pytest.raises(UsageError, match="retrieval.index=pq needs 16 .* has 8"):
        retrieval = replace(config.retrieval, index="pq")
        check(replace(config, retrieval=retrieval), queries=False)


def test_a_kb_needs_a_folder_of_its_own(
    tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    monkeypatch.chdir(tmp_path / "mine")
    for folder, words in ((".", "holds something else"), ("/", "holds something else"),
                          ("notes.txt", "below the file"), ("x" * 300, "at most 255")):  # fmt: skip
        with pytest.raises(UsageError, match=words):
            kb_action("build", changed(tiny_config, dir=folder), Console(quiet=True))
        assert [path.name for path in Path().iterdir()] == ["notes.txt"]
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    kb_action("build", changed(tiny_config, dir="."), Console(quiet=True))
    assert len(KnowledgeBase(Path())) == 8
