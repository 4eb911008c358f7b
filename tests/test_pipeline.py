"""redi on users' pipelines: exact, separate, reversible, and clear about what it refuses."""

from __future__ import annotations

import copy
import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    DDPMScheduler,
    EulerAncestralDiscreteScheduler,
    LCMScheduler,
    StableDiffusionImg2ImgPipeline,
)
from own_loop import own_loop, watch
from tiny_pipelines import ARGUMENTS, PIPELINES, build
from torch import Tensor

import redi
from redi.config import Config
from redi.errors import UsageError
from redi.knowledge_base import KnowledgeBase
from redi.models.identity import model_identity
from redi.models.text_to_image import TextToImageModel, load_pipeline
from redi.samplers import SAMPLERS, build_scheduler
from redi.verbs.assemble import check
from redi.verbs.build_kb import build as build_kb

STEPS, KEY, VALUE = 6, 2, 4
KNOWN = ["a small red fox", "a large blue car", "a tree"]
ASKED = ["a small red apple", "a house on a green background"]


def arguments(name: str, prompts: list[str], **changes: Any) -> dict[str, Any]:
    """Keyword arguments of a call that ends in latents (pixels for the unconditional one)."""
    query = {"batch_size": len(prompts)} if "DDPM" in name else {"prompt": prompts}
    output = "pt" if "DDPM" in name else "latent"
    common = {"num_inference_steps": STEPS, "output_type": output, **ARGUMENTS.get(name, {})}
    return {**query, **common, **changes}


def recorded(pipe: Any, name: str, folder: Path, **changes: Any) -> KnowledgeBase:
    rest = {k: v for k, v in arguments(name, []).items() if k not in ("prompt", "batch_size")}
    options = {"key_step": KEY, "value_steps": [VALUE, STEPS], "batch_size": 2}
    return redi.record(pipe, KNOWN, folder, **{**options, **rest, **changes})


def run(pipe: Any, name: str, kb: KnowledgeBase, prompts: list[str], **changes: Any) -> Tensor:
    call = arguments(name, prompts, generator=redi.generators(kb, len(prompts)), **changes)
    return torch.as_tensor(np.asarray(pipe(**call)[0]))


@pytest.fixture(scope="module")
def sd() -> Any:
    return build("Stable Diffusion 1.x")


@pytest.fixture
def kb(sd: Any, tmp_path: Path) -> KnowledgeBase:
    return recorded(sd, "", tmp_path / "kb")


#: those whose network can be asked by a call of one step that says its latents
ASKABLE = [name for name in PIPELINES if not name.endswith("strength 1")]


@pytest.mark.parametrize("name", ASKABLE)
def test_an_enabled_pipeline_is_the_own_loop_and_disabling_restores_it(
    name: str, tmp_path: Path
) -> None:
    pipe = build(name)
    kb = recorded(pipe, name, tmp_path / "kb")
    before = type(pipe), dict(pipe.config), pipe.scheduler, dict(pipe.__dict__)
    method = redi.ReDi(KEY, VALUE, neighbours=2, estimator="delta")
    plain = run(pipe, name, kb, ASKED)
    with redi.enable(pipe, kb, key_step=KEY, value_step=VALUE, neighbours=2, estimator="delta"):
        jumped = run(pipe, name, kb, ASKED)
    call = arguments(name, ASKED, generator=redi.generators(kb, 2))
    expected = own_loop(pipe, call, method, kb)
    full = own_loop(pipe, arguments(name, ASKED, generator=redi.generators(kb, 2)))
    if "DDPM" in name:
        expected, full = ((x / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1) for x in (expected, full))
        plain, jumped = (x if x.shape[-1] == 3 else x.permute(0, 2, 3, 1) for x in (plain, jumped))
    assert torch.equal(full, plain)
    assert torch.equal(expected, jumped)
    assert not torch.equal(plain, jumped) or "DDPM" in name  # the unconditional one meets itself
    found = redi.summary(pipe)
    assert (found.samples, found.hits, found.misses) == (2, 2, 0)
    assert (found.network_calls, found.network_calls_saved) == (8, 4)
    assert type(pipe) is before[0] and pipe.scheduler is before[2]
    assert pipe.__dict__.keys() == before[3].keys()
    again = run(pipe, name, kb, ASKED)
    if "DDPM" in name:
        again = again if again.shape[-1] == 3 else again.permute(0, 2, 3, 1)
    assert torch.equal(again, plain) and dict(pipe.config) == before[1]


@pytest.mark.parametrize("name", SAMPLERS)
def test_own_trajectory_with_history_is_the_plain_picture_on_every_scheduler(
    name: str, tmp_path: Path
) -> None:
    pipeline = "Stable Diffusion 3" if SAMPLERS[name].flow else "Stable Diffusion 1.x"
    pipe, steps = build(pipeline), 10
    pipe.scheduler = build_scheduler(name, pipe.scheduler.config)
    options = {"num_inference_steps": steps, "value_steps": [7], "store_history": True}
    kb = recorded(pipe, pipeline, tmp_path / "kb", **options)
    plain = run(pipe, pipeline, kb, KNOWN[:2], num_inference_steps=steps)
    with redi.enable(pipe, kb, value_step=7, resume="retrieved", estimator="transport"):
        again = run(pipe, pipeline, kb, KNOWN[:2], num_inference_steps=steps)
    assert torch.equal(plain, again)
    sampler = watch(pipe, arguments(pipeline, ASKED, num_inference_steps=steps))[0].sampler
    assert redi.summary(pipe).network_calls == 2 * (sampler.calls(0, 2) + sampler.calls(7, 10))


def test_a_kb_that_the_framework_built_serves_a_pipeline(
    tiny_config: Config, tiny_model: TextToImageModel, tiny_folder: Path
) -> None:
    kb = build_kb(tiny_config, check(tiny_config), tiny_model, lambda _: None)
    pipe = load_pipeline(tiny_folder, torch.float32, torch.device("cpu"))
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = build_scheduler("ddim", pipe.scheduler.config, "trailing")
    options = {"num_inference_steps": 10, "guidance_scale": 2.5, "output_type": "latent"}
    size = {"height": 16, "width": 16}

    def images(texts: list[str]) -> Tensor:
        return pipe(texts, generator=redi.generators(kb.root, 4), **options, **size).images

    plain = images(kb.prompts[:4])
    with redi.enable(pipe, kb.root, value_step=7):
        again = images(kb.prompts[:4])
        alone = copy.copy(pipe)  # takes the class along, but is not enabled
    assert redi.summary(pipe).hits == 4 and max(redi.summary(pipe).distances) < 1e-4
    assert torch.allclose(plain, again, atol=1e-4)
    before = redi.summary(pipe).network_calls
    alone(kb.prompts[0], num_inference_steps=2, output_type="latent", **size)
    assert redi.summary(pipe).network_calls == before
    options["guidance_rescale"] = 0.5  # the own loop has no such argument: it ran without
    with (
        redi.enable(pipe, kb.root, value_step=7),
        pytest.raises(UsageError, match="guidance_rescale: KB has 0.0, the pipeline 0.5"),
    ):
        images(kb.prompts[:4])


def test_a_batch_that_is_too_far_runs_in_full(sd: Any, kb: KnowledgeBase) -> None:
    plain = run(sd, "", kb, ASKED)
    with redi.enable(sd, str(kb.root), value_step=VALUE, max_distance=0.0):
        assert torch.equal(run(sd, "", kb, ASKED), plain)
        found = redi.summary(sd)
        assert (found.hits, found.misses, found.network_calls_saved) == (0, 2, 0)
        assert not torch.equal(run(sd, "", kb, KNOWN[:2]), plain)
        assert (found.hits, found.misses) == (2, 2)
    assert "2 hits, 2 misses" in str(found) and found.retrieval_seconds > 0


def test_two_pipelines_that_share_parts_do_not_affect_each_other(
    sd: Any, kb: KnowledgeBase
) -> None:
    other = type(sd)(**sd.components, requires_safety_checker=False)
    other.set_progress_bar_config(disable=True)
    assert other.scheduler is sd.scheduler
    plain = run(sd, "", kb, ASKED)
    with redi.enable(sd, kb, value_step=VALUE):
        alone = run(sd, "", kb, ASKED)
        assert torch.equal(run(other, "", kb, ASKED), plain)
        with redi.enable(other, kb, value_step=STEPS):
            last = run(other, "", kb, ASKED)
            assert torch.equal(run(sd, "", kb, ASKED), alone)
        assert not torch.equal(last, alone)
        assert redi.summary(sd).samples == 4 and redi.summary(other).samples == 2


def test_an_exception_inside_a_call_leaves_nothing_behind(sd: Any, kb: KnowledgeBase) -> None:
    own, config, plain = sd.scheduler, dict(sd.config), run(sd, "", kb, ASKED)

    def fail(pipe: Any, step: int, timestep: Any, kept: dict[str, Any]) -> dict[str, Any]:
        raise RuntimeError("in the middle")

    with redi.enable(sd, kb, value_step=VALUE):
        expected = run(sd, "", kb, ASKED)
        with pytest.raises(RuntimeError, match="in the middle"):
            run(sd, "", kb, ASKED, callback_on_step_end=fail)
        assert sd.scheduler is own
        assert torch.equal(run(sd, "", kb, ASKED), expected)
        with pytest.raises(RuntimeError, match="in the middle"):
            with redi.enable(build("Stable Diffusion 1.x"), kb, value_step=VALUE) as another:
                run(another, "", kb, ASKED, callback_on_step_end=fail)
    assert type(another) is type(sd) and dict(sd.config) == config
    assert torch.equal(run(sd, "", kb, ASKED), plain)


def test_a_killed_recording_goes_on_where_it_stopped(
    sd: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, calls = recorded(sd, "", tmp_path / "whole"), []
    original = type(sd).__call__

    @functools.wraps(original)
    def dies(pipe: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append(kwargs["prompt"])
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(pipe, *args, **kwargs)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(type(sd), "__call__", dies)
        recorded(sd, "", tmp_path / "half")
    assert not redi.pipeline.session.is_attached(sd)
    resumed = recorded(sd, "", tmp_path / "half")
    for group, name in (("step_0002", "latents"), ("step_0004", "latents")):
        assert torch.equal(resumed.column(group, name), whole.column(group, name))
    assert resumed.prompts == KNOWN


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ({"guidance_scale": 3.0}, "guidance_scale: KB has 7.5, the pipeline 3.0"),
        ({"num_inference_steps": 7}, "steps: KB has 6, the pipeline 7"),
        ({"negative_prompt": ["blue"] * 2}, 'negative_prompt: KB has "", the pipeline "blue"'),
        ({"eta": 0.5}, "eta: KB has 0.0"),
        (
            {"height": 8, "width": 8},
            "height: KB has 16, the pipeline 8; width: KB has 16, the pipeline 8",
        ),
    ],
)
def test_a_call_with_another_setting_is_refused(
    call: dict[str, Any], words: str, sd: Any, kb: KnowledgeBase
) -> None:
    with redi.enable(sd, kb, value_step=VALUE), pytest.raises(UsageError, match=words):
        run(sd, "", kb, ASKED, **call)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"value_step": 5}, "value_step=5 is not stored"),
        ({"value_step": 1}, "must come before"),
        ({"value_step": VALUE, "key_step": 3}, "kb.key_step=3 is no key step of this KB"),
        ({"value_step": VALUE, "method": "magic"}, "method='magic' is unknown; use one of"),
        ({"value_step": VALUE, "neighbours": 9}, "neighbours=9"),
        ({"value_step": VALUE, "resume": "magic"}, "rewarm, retrieved, legacy"),
    ],
)
def test_impossible_options_are_refused(
    options: dict[str, Any], words: str, sd: Any, kb: KnowledgeBase
) -> None:
    with pytest.raises(UsageError, match=words), redi.enable(sd, kb, **options):
        run(sd, "", kb, ASKED)
    assert not redi.pipeline.session.is_attached(sd)


def test_a_pipeline_that_does_not_fit_is_refused(kb: KnowledgeBase) -> None:
    pipe = build("Stable Diffusion 1.x")
    own = pipe.scheduler
    pipe.scheduler = build_scheduler("euler", own.config)
    with pytest.raises(UsageError, match='sampler: KB has "ddim", the pipeline "euler"'):
        redi.enable(pipe, kb, value_step=VALUE)
    for cls in (EulerAncestralDiscreteScheduler, DDPMScheduler, LCMScheduler):
        pipe.scheduler = cls.from_config(own.config)
        with pytest.raises(UsageError, match=f"{cls.__name__} is stochastic.*fresh noise"):
            redi.enable(pipe, kb, value_step=VALUE)
    pipe.scheduler = own
    torch.nn.init.ones_(pipe.unet.conv_out.bias)
    with pytest.raises(UsageError, match="model.unet.weights: KB has .*, the pipeline"):
        redi.enable(pipe, kb, value_step=VALUE)


def test_runs_of_a_part_of_the_schedule_are_refused(sd: Any, tmp_path: Path) -> None:
    part = StableDiffusionImg2ImgPipeline(**sd.components, requires_safety_checker=False)
    call = {
        "num_inference_steps": STEPS,
        "output_type": "latent",
        "image": torch.zeros(1, 3, 16, 16),
    }
    for scheduler, words in ((None, "where 831.0 comes next"), ("euler", "starts at step 3")):
        if scheduler is not None:
            part.scheduler = build_scheduler(scheduler, sd.scheduler.config)
        with pytest.raises(UsageError, match=words):
            redi.record(
                part, ["a"], tmp_path / "kb", key_step=2, value_steps=[4], strength=0.5, **call
            )
        assert not redi.pipeline.session.is_attached(part)


def test_noise_that_a_recording_would_draw_is_refused(sd: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="eta=0.5 is stochastic: it adds fresh noise"):
        recorded(sd, "", tmp_path / "kb", eta=0.5)
    assert not (tmp_path / "kb").exists()


def test_a_pipeline_without_weights_is_refused(kb: KnowledgeBase) -> None:
    pipe = build("Stable Diffusion 1.x")
    pipe.unet.to("meta")
    with pytest.raises(UsageError, match="UNet2DConditionModel are on the meta device"):
        redi.enable(pipe, kb, value_step=VALUE)


def test_offloaded_weights_are_the_same_weights(sd: Any, kb: KnowledgeBase) -> None:
    pytest.importorskip("accelerate")
    plain = run(sd, "", kb, ASKED)
    pipe = build("Stable Diffusion 1.x")
    pipe.enable_model_cpu_offload(device="cpu")
    assert torch.equal(run(pipe, "", kb, ASKED), plain)
    with redi.enable(pipe, kb, value_step=VALUE):  # recorded without offloading
        jumped = run(pipe, "", kb, ASKED)
    with redi.enable(sd, kb, value_step=VALUE):
        assert torch.equal(run(sd, "", kb, ASKED), jumped)
    assert redi.summary(pipe).hits == 2


def test_weights_that_are_offloaded_one_by_one_are_hashed_where_they_are_kept(
    sd: Any, kb: KnowledgeBase
) -> None:
    pytest.importorskip("accelerate")
    pipe = build("Stable Diffusion 1.x")
    pipe.enable_sequential_cpu_offload(device="cpu")
    assert all(parameter.is_meta for parameter in pipe.unet.parameters())
    assert model_identity(pipe) == model_identity(sd)
    redi.enable(pipe, kb, value_step=VALUE)
    redi.disable(pipe)
    pipe.unet.conv_in._hf_hook.weights_map["bias"][0] += 1
    with pytest.raises(UsageError, match="model.unet.weights"):
        redi.enable(pipe, kb, value_step=VALUE)


def test_a_kb_fits_the_lora_and_the_scale_that_it_was_recorded_with(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    pipe = build("Stable Diffusion 1.x")
    bare = recorded(pipe, "", tmp_path / "bare")
    torch.manual_seed(1)
    layers = peft.LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False)
    pipe.unet.add_adapter(layers)
    weights = peft.get_peft_model_state_dict(pipe.unet, adapter_name="default")
    pipe.save_lora_weights(tmp_path / "lora", unet_lora_layers=weights)
    pipe = build("Stable Diffusion 1.x")
    pipe.load_lora_weights(tmp_path / "lora", adapter_name="style")
    with pytest.raises(
        UsageError, match=r"unet.adapters: KB has nothing, the pipeline .style x 1\.0 at"
    ):
        redi.enable(pipe, bare, value_step=VALUE)
    kb = recorded(pipe, "", tmp_path / "kb", store_history=True)
    plain = run(pipe, "", kb, KNOWN[:2])
    assert not torch.equal(plain, run(build("Stable Diffusion 1.x"), "", kb, KNOWN[:2]))
    with redi.enable(pipe, kb, value_step=VALUE, estimator="transport"):
        assert torch.equal(run(pipe, "", kb, KNOWN[:2]), plain)
    for change in (lambda: pipe.set_adapters(["style"], [0.5]), pipe.disable_lora):
        change()
        with pytest.raises(UsageError, match="model.unet.adapters"):
            redi.enable(pipe, kb, value_step=VALUE)
    pipe.enable_lora()
    pipe.set_adapters(["style"], [1.0])
    redi.enable(pipe, kb, value_step=VALUE)
    redi.disable(pipe)
    pipe.unload_lora_weights()
    redi.enable(pipe, bare, value_step=VALUE)
    redi.disable(pipe)
    pipe.load_lora_weights(tmp_path / "lora", adapter_name="style")
    pipe.fuse_lora()
    pipe.unload_lora_weights()  # what was fused stays in the weights
    with pytest.raises(UsageError, match="model.unet.weights"):
        redi.enable(pipe, bare, value_step=VALUE)


def test_misuse_is_named(sd: Any, kb: KnowledgeBase, tmp_path: Path) -> None:
    with redi.enable(sd, kb, value_step=VALUE):
        with pytest.raises(UsageError, match="already"):
            redi.enable(sd, kb, value_step=VALUE)
    redi.disable(sd)  # a second time does nothing
    with pytest.raises(UsageError, match="never enabled"):
        redi.summary(build("Stable Diffusion 1.x"))
    for changes, words in (
        ({"value_steps": [2]}, "value_steps has 2"),
        ({"value_steps": [9]}, "value_steps has 9"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"generator": None}, "generator cannot be given"),
    ):
        with pytest.raises(UsageError, match=words):
            recorded(sd, "", tmp_path / "bad", **changes)
    with pytest.raises(UsageError, match="guidance_scale: KB has 7.5, the pipeline 2.0"):
        recorded(sd, "", kb.root, guidance_scale=2.0)
