"""Corrected sampling on users' pipelines: the framework's own runs, and clear refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from running import run_corrected
from tiny_pipelines import ARGUMENTS, build

import redi
from redi.data.noise import NoisePolicy
from redi.errors import UsageError
from redi.knowledge_base import KnowledgeBase
from redi.models.text_to_image import TextToImageModel
from redi.pipeline.fitting import reference_setup
from redi.samplers import build_scheduler

STEPS, FEW = 12, 3
KNOWN = ["a small red fox", "a large blue car", "a tree", "a red house", "a green apple"]
ASKED = ["a small red apple", "a house on a green background"]


def options(name: str) -> dict[str, Any]:
    return {"output_type": "latent", **ARGUMENTS.get(name, {})}


def recorded(pipe: Any, name: str, folder: Path, **changes: Any) -> KnowledgeBase:
    rest = {**options(name), "num_inference_steps": STEPS, "budgets": [FEW], "batch_size": 2}
    return redi.record(pipe, KNOWN, folder, **{**rest, **changes})


def run(pipe: Any, name: str, prompts: list[str], steps: int, **changes: Any) -> torch.Tensor:
    starts = [NoisePolicy().generator(0) for _ in prompts]
    call = {"prompt": prompts, "num_inference_steps": steps, "generator": starts}
    return pipe(**{**call, **options(name), **changes}).images


def fit(pipe: Any, name: str, kb: KnowledgeBase, **changes: Any) -> Path:
    rest = {**options(name), "num_inference_steps": FEW, "batch_size": 2, "progress": False}
    return redi.fit(pipe, kb, **{**rest, **changes})


@pytest.mark.parametrize(
    "name",
    ["Stable Diffusion 1.x", "Stable Diffusion 2.x (v-prediction)", "SDXL", "PixArt-Sigma"],
)
def test_a_corrected_pipeline_comes_closer_to_its_full_run(name: str, tmp_path: Path) -> None:
    pipe = build(name)
    kb = recorded(pipe, name, tmp_path / "kb")
    full, plain = (run(pipe, name, KNOWN, steps) for steps in (STEPS, FEW))
    before = type(pipe), pipe.scheduler, dict(pipe.config)
    assert fit(pipe, name, kb) == fit(pipe, name, kb)  # the second finds the first
    with redi.enable(pipe, kb, method="corrected", num_inference_steps=FEW):
        corrected = run(pipe, name, KNOWN, FEW)
    assert (corrected - full).norm() < 0.5 * (plain - full).norm()
    found = redi.summary(pipe)
    assert (found.samples, found.network_calls) == (5, 5 * FEW)
    assert found.network_calls_saved == 5 * (STEPS - FEW)
    assert (type(pipe), pipe.scheduler, dict(pipe.config)) == before
    assert torch.equal(run(pipe, name, KNOWN, FEW), plain)


@pytest.mark.parametrize("sampler", ["ddim", "dpm_solver_pp", "unipc", "deis", "euler"])
def test_it_is_the_frameworks_own_corrected_run(sampler: str, tmp_path: Path) -> None:
    pipe = build("Stable Diffusion 1.x")
    pipe.scheduler = build_scheduler(sampler, pipe.scheduler.config)
    kb = recorded(pipe, "", tmp_path / "kb", guidance_scale=3.0)
    fit(pipe, "", kb, guidance_scale=3.0)
    correction = redi.Corrected(FEW).bind(reference_setup(pipe, kb)).correction
    with redi.enable(pipe, kb, method="corrected", num_inference_steps=FEW):
        theirs = run(pipe, "", ASKED, FEW, guidance_scale=3.0)
    model = TextToImageModel(pipe, 3.0, "", len(ASKED))
    noise = NoisePolicy().draw([0, 0], model.latent_shape)
    mine = run_corrected(model, correction, model.encode(ASKED), noise, [0, 0])
    assert mine.cost.calls == FEW
    assert torch.allclose(mine.latents, theirs, rtol=0, atol=1e-5)


def test_any_noise_is_served_by_a_kb_of_different_noises(tmp_path: Path) -> None:
    pipe = build("Stable Diffusion 1.x")
    kb = recorded(pipe, "", tmp_path / "kb", noise="per_prompt")
    assert kb.noise_ids.tolist() == [0, 1, 2, 3, 4]
    fit(pipe, "", kb)
    with redi.enable(pipe, kb, method="corrected", num_inference_steps=FEW):
        pictures = run(pipe, "", ASKED, FEW, generator=torch.Generator().manual_seed(5))
    assert torch.isfinite(pictures).all()
    with pytest.raises(UsageError, match="any generators"):
        redi.generators(kb)


def test_what_cannot_work_is_said(tmp_path: Path) -> None:
    pipe = build("Stable Diffusion 1.x")
    with pytest.raises(UsageError, match="nothing would be kept"):
        recorded(pipe, "", tmp_path / "none", budgets=[])
    with pytest.raises(UsageError, match="budgets has 13"):
        recorded(pipe, "", tmp_path / "many", budgets=[13])
    kb = recorded(pipe, "", tmp_path / "kb")

    def enable(**changes: Any) -> None:
        with redi.enable(pipe, kb, **{"method": "corrected", "num_inference_steps": 3, **changes}):
            run(pipe, "", ASKED, changes.pop("call", FEW))

    with pytest.raises(UsageError, match="call redi.fit"):
        enable()
    with pytest.raises(UsageError, match="no latents after step"):
        enable(num_inference_steps=5)
    with pytest.raises(UsageError, match="needs num_inference_steps"):
        enable(num_inference_steps=None)
    with pytest.raises(UsageError, match="value_step=4 does nothing"):
        enable(value_step=4)
    with pytest.raises(UsageError, match="without a key step"):
        enable(method="redi", num_inference_steps=None, value_step=4)
    with pytest.raises(UsageError, match=r"guidance_scale: KB has 7.5, the pipeline 2"):
        fit(pipe, "", kb, guidance_scale=2.0)
    fit(pipe, "", kb)
    with (
        pytest.raises(UsageError, match="num_inference_steps=4"),
        redi.enable(pipe, kb, method="corrected", num_inference_steps=FEW),
    ):
        run(pipe, "", ASKED, 4)
    pipe.scheduler = build_scheduler("heun", pipe.scheduler.config)
    with pytest.raises(UsageError, match="calls the network twice in one update"):
        recorded(pipe, "", tmp_path / "heun")


def test_a_callback_may_change_the_latents(tmp_path: Path) -> None:
    pipe = build("Stable Diffusion 1.x")
    kb = recorded(pipe, "", tmp_path / "kb")
    fit(pipe, "", kb)

    def nothing(pipe: Any, step: int, timestep: Any, state: dict[str, Any]) -> dict[str, Any]:
        return {"latents": state["latents"].clone()}

    def shift(pipe: Any, step: int, timestep: Any, state: dict[str, Any]) -> dict[str, Any]:
        return {"latents": state["latents"] + (step == 0)}

    with redi.enable(pipe, kb, method="corrected", num_inference_steps=FEW):
        plain = run(pipe, "", ASKED, FEW)
        same = run(pipe, "", ASKED, FEW, callback_on_step_end=nothing)
        moved = run(pipe, "", ASKED, FEW, callback_on_step_end=shift)
    assert torch.allclose(plain, same, atol=1e-5) and (moved - plain).abs().max() > 0.01
