"""A recorded knowledge base from its first trajectory on: killed, gone on with, grown, refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_pipelines import build, scheduler

import redi
from redi import files
from redi.errors import UsageError
from redi.knowledge_base import Journal, KnowledgeBase, all_shards, verify
from redi.pipeline.noise import noise_of
from redi.pipeline.observer import Recording

PROMPTS = ["a red fox", "a blue car", "a tree", "a house", "a boat"]
SETTING = {"num_inference_steps": 3, "output_type": "latent", "progress": False}


@pytest.fixture(scope="module")
def sd() -> Any:
    return build("Stable Diffusion 1.x")


def recorded(pipe: Any, prompts: Any, folder: Path, **changes: Any) -> KnowledgeBase:
    options = {"key_step": 1, "value_steps": [2, 3], "batch_size": 2}
    return redi.record(pipe, prompts, folder, **{**options, **SETTING, **changes})


@pytest.fixture(scope="module")
def whole(sd: Any, tmp_path_factory: pytest.TempPathFactory) -> KnowledgeBase:
    return recorded(sd, PROMPTS, tmp_path_factory.mktemp("whole") / "kb")


def same(one: KnowledgeBase, other: KnowledgeBase) -> bool:
    rows = one.prompts == other.prompts and one.noise_ids.tolist() == other.noise_ids.tolist()
    assert one.manifest == other.manifest
    return rows and all(
        torch.equal(one.column(c.group, c.name), other.column(c.group, c.name))
        for c in one.manifest.columns
    )


def test_only_prompts_are_stored_and_a_kb_grows(
    sd: Any, whole: KnowledgeBase, tmp_path: Path
) -> None:
    assert KnowledgeBase(whole.root).prompts == whole.prompts == PROMPTS
    rows = [Journal.read(whole.root, s, whole.manifest).rows for s in all_shards(whole.root)]
    assert rows == [2, 2, 1]
    for count in (1, 4, 5):
        grown = recorded(sd, PROMPTS[:count], tmp_path / "kb")
        assert grown.prompts == PROMPTS[:count] and len(KnowledgeBase(grown.root)) == count
    assert same(grown, whole) and len(grown.shards) == 4
    assert verify(grown.root, grown.shards) == sum(len(j.files) for j in grown.journals)
    picked = torch.tensor([4, 0, 3])
    assert torch.equal(grown.latents(2, picked), whole.latents(2)[picked])
    fewer = recorded(sd, PROMPTS[:2], grown.root)  # nothing to do
    assert fewer.content_hash == grown.content_hash
    recorded(sd, PROMPTS[:1], tmp_path / "other")
    for size in (3, 1):  # where memory was too small, for one
        other = recorded(sd, PROMPTS[: 5 - size // 3], tmp_path / "other", batch_size=size)
    assert other.prompts == PROMPTS
    assert torch.allclose(other.latents(3), whole.latents(3), atol=1e-4)


def test_other_prompts_are_refused_with_the_first_difference(sd: Any, whole: KnowledgeBase) -> None:
    words = r"trajectory 1 is of 'a blue car' and prompts\[1\] is 'a dog'.*new ones after them"
    with pytest.raises(UsageError, match=words):
        recorded(sd, ["a red fox", "a dog"], whole.root)
    with pytest.raises(UsageError, match="another setting.*noise_seed: KB has 0, the pipeline 1"):
        recorded(sd, PROMPTS, whole.root, seed=1)
    with pytest.raises(UsageError, match=r"stored_steps: KB has \[1, 2, 3\], the pipeline \[1, 2"):
        recorded(sd, PROMPTS, whole.root, value_steps=[2])


def test_what_is_complete_runs_no_network(
    sd: Any, whole: KnowledgeBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> None:
        raise AssertionError("the network was run")

    monkeypatch.setattr(Recording, "begin", fails)
    assert recorded(sd, PROMPTS, whole.root).content_hash == whole.content_hash
    monkeypatch.undo()
    sd("a fox", num_inference_steps=2, output_type="latent")  # the pipeline is as before


def test_a_text_is_one_prompt(sd: Any, tmp_path: Path) -> None:
    assert recorded(sd, "a cat", tmp_path / "kb").prompts == ["a cat"]
    with pytest.raises(UsageError, match=r"prompts\[1\] is 5: every prompt is a text"):
        recorded(sd, ["a", 5], tmp_path / "other")


def test_killed_at_any_point_it_goes_on(
    sd: Any, whole: KnowledgeBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed at one change of the disk or another, and started again."""
    runs = 0
    for _ in range(40):
        left = [6 * runs + 5]

        def ends(name: str, left: list[int] = left) -> Any:
            original = getattr(files, name)

            def change(*args: Any) -> Any:
                left[0] -= 1
                if left[0] < 0:
                    raise KeyboardInterrupt
                return original(*args)

            return change

        runs += 1
        with monkeypatch.context() as patch:
            for name in ("write", "sync", "replace", "link", "sync_folder"):
                patch.setattr(files, name, ends(name))
            try:
                recorded(sd, PROMPTS, tmp_path / "kb")
                break
            except KeyboardInterrupt:
                continue
    assert runs > 3 and same(KnowledgeBase(tmp_path / "kb"), whole)


def test_latents_that_are_not_finite_are_refused(
    sd: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = Recording._rows
    count = [0]

    def broken(plan: Recording, latents: torch.Tensor) -> torch.Tensor:
        rows = own(plan, latents)
        count[0] += 1
        if count[0] == 7:  # the second batch's second stored step
            rows[1, 0, 3, 3] = torch.nan
        return rows

    monkeypatch.setattr(Recording, "_rows", broken)
    with pytest.raises(UsageError, match="trajectory 3 .*is not finite after step 2"):
        recorded(sd, PROMPTS, tmp_path / "kb")
    assert KnowledgeBase(tmp_path / "kb").prompts == PROMPTS[:2]


def test_a_schedule_without_signal_is_refused_before_the_run(tmp_path: Path) -> None:
    pipe = build("SDXL")
    pipe.scheduler = scheduler(
        rescale_betas_zero_snr=True, timestep_spacing="trailing", prediction_type="epsilon"
    )
    with pytest.raises(UsageError, match="signal, where noise says nothing about the picture"):
        recorded(pipe, PROMPTS, tmp_path / "kb")
    pipe.scheduler = scheduler(
        rescale_betas_zero_snr=True, timestep_spacing="trailing", prediction_type="v_prediction"
    )
    assert len(recorded(pipe, "a fox", tmp_path / "kb")) == 1


def test_a_correction_that_one_process_fitted_serves_the_next(sd: Any, tmp_path: Path) -> None:
    options = {"budgets": [2], "num_inference_steps": 6, "key_step": None, "value_steps": []}
    kb = recorded(sd, PROMPTS, tmp_path / "kb", **options)
    few = {"num_inference_steps": 2, "output_type": "latent"}
    path = redi.fit(sd, kb, batch_size=2, progress=False, **few)
    again = KnowledgeBase(tmp_path / "kb")
    assert redi.fit(sd, tmp_path / "kb", batch_size=2, progress=False, **few) == path
    with redi.enable(sd, again.root, method="corrected", num_inference_steps=2):
        sd("a fox", generator=redi.generators(again), **few)
    recorded(sd, [*PROMPTS, "a cat"], tmp_path / "kb", **options)  # more to learn from
    with pytest.raises(UsageError, match="no fitted .corrected.*redi.fit"):
        redi.enable(sd, tmp_path / "kb", method="corrected", num_inference_steps=2)


def test_generators_tell_which_noise_of_a_bank_a_sample_starts_from(
    sd: Any, tmp_path: Path
) -> None:
    kb = recorded(sd, PROMPTS, tmp_path / "kb", noise="bank", bank_size=2)
    assert kb.noise_ids.tolist() == [0, 1, 0, 1, 0] == kb.partitions.tolist()
    start = redi.generators(kb, ids=[1, 0, 1])
    assert noise_of(kb, start, 3) == [1, 0, 1]
    assert noise_of(kb, redi.generators(kb.root, 3), 3) == [0, 1, 0]
    again = sd(PROMPTS[1], generator=redi.generators(kb, ids=[1]), **SETTING_OF_A_CALL).images
    assert torch.allclose(torch.as_tensor(again), kb.latents(3)[1:2], atol=1e-4)
    used = redi.generators(kb, ids=[1])
    torch.randn(3, generator=used[0])
    for unknown in (None, torch.Generator().manual_seed(3), used, redi.generators(kb)[0]):
        samples = 2 if unknown is not used else 1
        with pytest.raises(UsageError, match="has 2 noises and this call does not say which"):
            noise_of(kb, unknown, samples)
    with pytest.raises(UsageError, match="ids has 2 and the KB .* has the noises 0 to 1"):
        redi.generators(kb, ids=[2])
    with pytest.raises(UsageError, match="count=3 and ids"):
        redi.generators(kb, 3, [0])


SETTING_OF_A_CALL = {"num_inference_steps": 3, "output_type": "latent"}


def test_a_shared_noise_is_one_partition(whole: KnowledgeBase) -> None:
    assert noise_of(whole, None, 2) == [0, 0]
    states = [g.get_state() for g in redi.generators(whole, 2)]
    assert torch.equal(*states) and len(redi.generators(whole)) == 1


def test_one_recording_serves_several_key_steps(sd: Any, tmp_path: Path) -> None:
    several = recorded(sd, PROMPTS, tmp_path / "several", key_step=[2, 1])
    assert several.key_steps == (1, 2)
    for key_step, value_steps in ((1, [2, 3]), (2, [3])):
        name = f"k{key_step}"
        one = recorded(sd, PROMPTS, tmp_path / name, key_step=key_step, value_steps=value_steps)
        for column in one.manifest.columns:
            arrays = (kb.column(column.group, column.name) for kb in (one, several))
            assert torch.equal(*arrays), column
        pictures = []
        for kb in (one, several):
            with redi.enable(sd, kb, key_step=key_step, value_step=3):
                asked = {name: SETTING[name] for name in ("num_inference_steps", "output_type")}
                made = sd(["a cat"], generator=redi.generators(kb, ids=[0]), **asked)
                pictures.append(made.images)
        assert torch.equal(*map(torch.as_tensor, pictures))


def test_a_recording_with_one_key_step_does_not_become_one_with_several(
    sd: Any, whole: KnowledgeBase
) -> None:
    with pytest.raises(UsageError, match=r"key_steps: KB has \[1\], the pipeline \[1, 2\]"):
        recorded(sd, PROMPTS, whole.root, key_step=[1, 2])
