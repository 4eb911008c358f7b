"""Pipelines that are told pictures, make videos or name their levels: recorded, fitted, refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FluxImg2ImgPipeline, StableDiffusionXLImg2ImgPipeline
from tiny_guided import GUIDED, GUIDED_ARGUMENTS, picture
from tiny_pipelines import ARGUMENTS, build
from tiny_recent import RECENT

import redi
from redi.errors import UsageError

STEPS = {"num_inference_steps": 4, "output_type": "latent"}
KEPT = {"key_step": 1, "value_steps": [3]}
#: another picture, under the argument that it has
OTHER = {
    "ControlNet on Stable Diffusion": {"image": picture(5)},
    "IP-Adapter on Stable Diffusion": {"ip_adapter_image_embeds": [torch.ones(2, 1, 16)]},
    "image to image, strength 1": {"image": picture(5)},
    "inpainting, strength 1": {"mask_image": (picture(5)[:, :1] > 0.5).float()},
}


@pytest.mark.parametrize("name", GUIDED)
def test_a_kb_serves_the_picture_that_it_was_recorded_with(name: str, tmp_path: Path) -> None:
    pipe, call = build(name), {**STEPS, **GUIDED_ARGUMENTS[name]}
    kb = redi.record(pipe, ["a red fox", "a blue car"], tmp_path / "kb", **KEPT, **call)
    with redi.enable(pipe, kb, value_step=3):
        pipe("a green tree", generator=redi.generators(kb), **call)
        assert redi.summary(pipe).network_calls == 2 and redi.summary(pipe).hits == 1
        (argument,) = OTHER[name]
        with pytest.raises(UsageError, match=f"{argument}: KB has"):
            pipe("a green tree", generator=redi.generators(kb), **{**call, **OTHER[name]})


def _flux_from(pipe: Any) -> FluxImg2ImgPipeline:
    return FluxImg2ImgPipeline(**pipe.components)


def _sdxl_from(pipe: Any) -> StableDiffusionXLImg2ImgPipeline:
    return StableDiffusionXLImg2ImgPipeline(**pipe.components, add_watermarker=False)


@pytest.mark.parametrize(
    ("name", "made", "options"),
    [
        ("inpainting, strength 1", lambda pipe: pipe, {}),
        ("SDXL", _sdxl_from, {"image": picture()}),
        ("Flux", _flux_from, {"image": torch.rand(1, 3, 32, 32), "height": 32, "width": 32}),
    ],
)
def test_calls_that_start_inside_the_schedule_are_refused(
    name: str, made: Any, options: dict[str, Any], tmp_path: Path
) -> None:
    pipe = made(build(name))
    pipe.set_progress_bar_config(disable=True)
    call = {**STEPS, **GUIDED_ARGUMENTS.get(name, {}), **options, "strength": 0.5}
    with pytest.raises(UsageError, match="starts at step 2|comes next .*only a part") as error:
        redi.record(pipe, ["a red fox"], tmp_path / "kb", **KEPT, **call)
    assert "\n" not in str(error.value) and not (tmp_path / "kb").exists()


def test_videos_are_latents_with_frames(tmp_path: Path) -> None:
    pipe, call = build("Wan"), {**STEPS, **ARGUMENTS["Wan"]}
    kb = redi.record(pipe, ["a red fox", "a blue car"], tmp_path / "kb", **KEPT, **call)
    assert kb.latent_shape == (1, 4, 2, 8, 8)
    with redi.enable(pipe, kb, value_step=3):
        noise = redi.generators(kb, 2)
        jumped = pipe("a red fox", num_videos_per_prompt=2, generator=noise, **call)[0]
        assert jumped.shape == (2, 4, 2, 8, 8) and redi.summary(pipe).network_calls == 4
    noise = redi.generators(kb, 2)
    plain = pipe("a red fox", num_videos_per_prompt=2, generator=noise, **call)[0]
    assert not torch.equal(jumped, plain)  # another way to go on after the jump: fresh history
    assert float((jumped - plain).norm() / plain.norm()) < 0.1
    more = {**call, "num_inference_steps": 6}
    kb = redi.record(pipe, ["a", "b"], tmp_path / "few", budgets=[3], noise="per_prompt", **more)
    with pytest.raises(UsageError, match="corrections are maps over pictures"):
        redi.fit(pipe, kb, **{**more, "num_inference_steps": 3})
    with pytest.raises(UsageError, match="num_videos_per_prompt cannot be given"):
        redi.record(pipe, ["a"], tmp_path / "b", **KEPT, **call, num_videos_per_prompt=2)


@pytest.mark.parametrize("name", RECENT)
def test_the_best_few_step_sampler_is_fitted_to_recent_pipelines(name: str, tmp_path: Path) -> None:
    pipe, call = build(name), {**STEPS, **ARGUMENTS[name], "num_inference_steps": 6}
    prompts = ["a red fox", "a blue car", "a tree", "an apple"]
    quiet = {"progress": False, "batch_size": 4}
    kept = {"budgets": [3], "noise": "per_prompt"}
    kb = redi.record(pipe, prompts, tmp_path / "kb", **kept, **quiet, **call)
    told = {key: value for key, value in call.items() if key != "num_inference_steps"}
    best = redi.METHODS["best"](3, methods=("plain", "pas"))
    redi.fit(pipe, kb, best, **quiet, **told)
    full = pipe(prompts[0], generator=redi.generators(kb, ids=[0]), **call)[0]
    with redi.enable(pipe, kb, best):
        noise = redi.generators(kb, ids=[0])
        few = pipe(prompts[0], generator=noise, num_inference_steps=3, **told)[0]
        assert redi.summary(pipe).network_calls == 3
    assert 0 < float((few - full).norm() / full.norm()) < 0.1
