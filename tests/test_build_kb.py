"""Building: any number of processes and any number of kills make the same files."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from redi.config import Config
from redi.errors import UsageError
from redi.files import LOCK
from redi.knowledge_base import KnowledgeBase, verify
from redi.methods import Query, Setup
from redi.methods.solve import solve
from redi.models.text_to_image import TextToImageModel
from redi.verbs.assemble import check, model_from, noise_from, sampler_from, setting_from
from redi.verbs.build_kb import build


def files(root: Path) -> dict[str, bytes]:
    """What a KB holds, but for the lock of its builders."""
    paths = (p for p in root.rglob("*") if p.is_file() and p.name != LOCK)
    return {str(p.relative_to(root)): p.read_bytes() for p in paths}


def quietly(config: Config, model: TextToImageModel) -> None:
    torch.set_num_threads(1)
    build(config, check(config), model, lambda _: None)


def in_folder(config: Config, folder: Path, size: int) -> Config:
    return replace(config, kb=replace(config.kb, dir=str(folder), size=size))


def test_ten_kills_leave_the_same_knowledge_base(
    tiny_config: Config, tiny_model: TextToImageModel, tmp_path: Path
) -> None:
    size, seed = 160, 20261123
    whole = in_folder(tiny_config, tmp_path / "whole", size)
    started = time.monotonic()
    quietly(whole, tiny_model)
    duration = time.monotonic() - started
    config = in_folder(tiny_config, tmp_path / "killed", size)
    delays, context, kills = random.Random(seed), multiprocessing.get_context("fork"), 0
    while kills < 10:
        child = context.Process(target=quietly, args=(config, tiny_model))
        child.start()
        assert child.pid is not None
        time.sleep(delays.uniform(0.02, 0.12) * duration)
        if child.is_alive():
            os.kill(child.pid, signal.SIGKILL)
            kills += 1
        child.join()
        if child.exitcode == 0:  # finished before the kill: start over with an empty folder
            for path in sorted((tmp_path / "killed").rglob("*"), reverse=True):
                path.unlink() if path.is_file() else path.rmdir()
    quietly(config, tiny_model)
    assert files(tmp_path / "killed") == files(tmp_path / "whole")
    data = [n for n in files(tmp_path / "whole") if not n.startswith(("manifest", "journal"))]
    assert verify(tmp_path / "killed", range(size // 4)) == len(data)


def test_two_processes_make_what_one_makes(tiny_config: Config, tmp_path: Path) -> None:
    one = in_folder(tiny_config, tmp_path / "one", 12)
    build(one, check(one), model_from(one.model, 2.5, ""), lambda _: None)
    two = in_folder(tiny_config, tmp_path / "two", 12)
    two = replace(two, trainer=replace(two.trainer, devices=2, accelerator="cpu", threads=1))
    build(two, check(two), model_from(two.model, 2.5, ""), lambda _: None)
    assert files(tmp_path / "two") == files(tmp_path / "one")


def test_a_smaller_kb_is_a_prefix_of_a_larger_one(
    tiny_config: Config, tiny_model: TextToImageModel, tmp_path: Path
) -> None:
    quietly(in_folder(tiny_config, tmp_path / "small", 4), tiny_model)
    quietly(in_folder(tiny_config, tmp_path / "large", 8), tiny_model)
    small, large = files(tmp_path / "small"), files(tmp_path / "large")
    assert all(large[name] == data for name, data in small.items())


def test_one_knowledge_base_serves_several_key_steps(
    tiny_config: Config, tiny_model: TextToImageModel, tmp_path: Path
) -> None:
    """States, predictions and so every jump are those of a KB with one key step."""
    shared = replace(tiny_config, kb=replace(tiny_config.kb, key_steps=[4, 2]))
    roots = set()
    for key_step in (2, 4):
        alone = replace(tiny_config, kb=replace(tiny_config.kb, key_step=key_step))
        several = replace(shared, kb=replace(shared.kb, key_step=key_step))
        own, kb = (build(c, check(c), tiny_model, lambda _: None) for c in (alone, several))
        roots.add(kb.root)
        assert kb.key_steps == (2, 4) and own.key_steps == (key_step,)
        for column in own.manifest.columns:
            arrays = (k.column(column.group, column.name) for k in (own, kb))
            assert torch.equal(*arrays), column
        at_end = [jumped(several, k, tiny_model) for k in (own, kb)]
        assert torch.equal(*at_end)
    assert len(roots) == 1
    with pytest.raises(UsageError, match=r"no key step of this KB \(it has 2, 4\)"):
        jumped(replace(shared, kb=replace(shared.kb, key_step=3, key_steps=None)), kb, tiny_model)


def jumped(config: Config, kb: KnowledgeBase, model: TextToImageModel) -> torch.Tensor:
    """Final latents of two prompts by ReDi."""
    setup = Setup(sampler_from(config, model), model.scheduler_config, kb)
    noise = noise_from(config).draw([0, 0], model.latent_shape)
    method = setting_from(config).bind(setup)
    query = Query(noise, (0, 0), (0, 0))
    return solve(method, query, model, model.encode(["a red fox", "a blue car"])).latents
