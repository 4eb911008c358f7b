"""The framework's own loop on every model family: the unmodified pipeline, bit for bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from rich.console import Console
from running import run_plain
from tiny_pipelines import SIDE, build

from redi.config import (
    Config,
    DataConfig,
    KBConfig,
    MetricsConfig,
    ModelConfig,
    RetrievalConfig,
    SamplerConfig,
    SamplingConfig,
)
from redi.data.noise import NoisePolicy
from redi.errors import UsageError
from redi.knowledge_base import KnowledgeBase
from redi.models.text_to_image import TextToImageModel, load_pipeline
from redi.samplers import build_sampler, build_scheduler
from redi.verbs.run import main_job

STEPS, PROMPTS = 4, ["a small red fox", "a large blue car"]
SIZES = {"SDXL": 2 * SIDE, "Stable Diffusion 3": 2 * SIDE, "Flux": 4 * SIDE}
CPU = torch.float32, torch.device("cpu")
CASES = [
    ("SDXL", "euler", ""),
    ("SDXL", "dpm_solver_pp", "blue"),
    ("Stable Diffusion 3", "flow_euler", ""),
    ("Stable Diffusion 3", "flow_heun", "blue"),
    ("Flux", "flow_euler", ""),
]


def model_of(name: str, pipe: Any, guidance: float = 3.0, **options: Any) -> TextToImageModel:
    return TextToImageModel(pipe, guidance, **{"batch_size": 2, "size": SIZES[name], **options})


def pictures(pipe: Any, name: str, **options: Any) -> torch.Tensor:
    noise, side = NoisePolicy("per_prompt"), SIZES[name]
    return pipe(
        PROMPTS,
        height=side,
        width=side,
        num_inference_steps=STEPS,
        generator=[noise.generator(i) for i in range(2)],
        **{"guidance_scale": 3.0, **options},
    ).images


def own(model: TextToImageModel, sampler: str) -> torch.Tensor:
    steps = build_sampler(sampler, model.scheduler_config, STEPS)
    noise = NoisePolicy("per_prompt").draw([0, 1], model.latent_shape)
    return run_plain(model, steps, model.encode(PROMPTS), noise).latents


@pytest.mark.parametrize(("name", "sampler", "negative"), CASES)
def test_a_plain_run_is_the_unmodified_pipeline(name: str, sampler: str, negative: str) -> None:
    pipe = build(name)
    model = model_of(name, pipe, negative_prompt=negative)
    latents = own(model, sampler)
    pipe.scheduler = build_scheduler(sampler, pipe.scheduler.config)
    given = {"negative_prompt": [negative] * 2} if negative else {}
    expected = pictures(pipe, name, output_type="latent", **given)
    if name == "Flux":
        side = SIZES[name]
        expected = pipe._unpack_latents(expected, side, side, pipe.vae_scale_factor)
    assert torch.equal(latents, expected)
    seen = pictures(pipe, name, output_type="pt", **given)
    assert torch.equal((model.decode(latents) / 2 + 0.5).clamp(0, 1), seen)
    assert model.meter.calls == 2 * (2 * STEPS - 1 if sampler == "flow_heun" else STEPS)
    assert model.encode(PROMPTS).embedding.shape == (2, model.embedding_size)


@pytest.mark.parametrize("name", SIZES)
def test_a_folder_is_loaded_as_the_class_it_names_and_rows_do_not_depend_on_others(
    name: str, tmp_path: Path
) -> None:
    pipe = build(name)
    pipe.save_pretrained(tmp_path)
    loaded = load_pipeline(tmp_path, *CPU)
    assert type(loaded) is type(pipe)
    whole, model = (model_of(name, p) for p in (pipe, loaded))
    assert whole.identity() == model.identity()
    noise = NoisePolicy("per_prompt").draw([0, 1], model.latent_shape)
    time = torch.tensor(500.0 if name != "SDXL" else 500)
    both = model.predictor(model.encode(PROMPTS))(noise, time)
    alone = model.predictor(model.encode(PROMPTS[1:]))(noise[1:], time)
    assert torch.equal(both[1:], alone) and torch.equal(
        both, whole.predictor(whole.encode(PROMPTS))(noise, time)
    )


def test_what_a_family_cannot_do_is_refused_in_one_sentence(tmp_path: Path) -> None:
    flux, sd3 = build("Flux"), build("Stable Diffusion 3")
    for make, words in (
        (
            lambda: model_of("Flux", flux, negative_prompt="blue"),
            "negative_prompt='blue' does noth",
        ),
        (lambda: model_of("Flux", flux, size=30), "model.size=30 .* multiple of 4 pixels"),
        (lambda: model_of("Stable Diffusion 3", sd3, size=32), "model.size=32 .* at most 16"),
        (lambda: TextToImageModel(build("PixArt-Sigma"), 3.0), "PixArtSigmaPipeline: use one of"),
        (lambda: own(model_of("Stable Diffusion 3", sd3), "ddim"), "use one of flow_euler, flow_h"),
        (lambda: own(model_of("Flux", flux), "flow_heun"), "use flow_euler"),
        (lambda: own(model_of("SDXL", build("SDXL")), "flow_euler"), "use one of ddim, pndm"),
    ):
        with pytest.raises(UsageError, match=words) as error:
            make()
        assert "\n" not in str(error.value)
    flux.transformer.register_to_config(guidance_embeds=False)
    with pytest.raises(UsageError, match="guidance_scale=3.0 does nothing .*: set it to 1"):
        model_of("Flux", flux)
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "WanPipeline"}))
    with pytest.raises(UsageError, match="it is a WanPipeline: use one of StableDiffusionPipeline"):
        load_pipeline(tmp_path, *CPU)


@pytest.mark.parametrize(
    ("name", "sampler"),
    [("SDXL", SamplerConfig("dpm_solver_pp")), ("Flux", SamplerConfig("flow_euler", None))],
)
def test_a_kb_is_built_and_evaluated_end_to_end(
    name: str, sampler: SamplerConfig, tmp_path: Path
) -> None:
    build(name).save_pretrained(tmp_path / "pipeline")
    for role, word in (("kb", "fox"), ("query", "car")):
        lines = [f"a {colour} {word}" for colour in ("red", "blue", "black", "white")]
        (tmp_path / role).write_text("\n".join(lines))
    config = Config(
        sampler=sampler,
        sampling=SamplingConfig(steps=8, guidance_scale=2.0),
        model=ModelConfig(path=str(tmp_path / "pipeline"), size=SIZES[name], batch_size=4),
        data=DataConfig(
            "file", 4, kb_file=str(tmp_path / "kb"), query_file=str(tmp_path / "query")
        ),
        kb=KBConfig(root=str(tmp_path / "kbs"), size=4, key_step=2, shard_size=4),
        retrieval=RetrievalConfig(value_step=6, estimator="delta"),
        metrics=MetricsConfig(hooks=["cost", "fidelity"], resamples=20),
        reference_root=None,
    )
    folder = main_job(config, tmp_path / "run", True, Console(quiet=True))
    points = json.loads((folder / "results.json").read_text())["points"]
    calls = {point["method"]: point["calls"] for point in points}
    assert calls["full"] == 8 and calls["redi"] == calls["plain"] == 4
    kb = KnowledgeBase(next(p for p in (tmp_path / "kbs").iterdir() if p.is_dir()))
    model = TextToImageModel(load_pipeline(tmp_path / "pipeline", *CPU), 2.0, "", 4, SIZES[name])
    assert kb.manifest.identity["model_hash"] == model.identity()["model_hash"]
    assert kb.column("step_0002", "latents").shape == (4, *model.latent_shape)


def test_levels_that_shift_with_the_size_are_the_pipelines() -> None:
    """Stable Diffusion 3 with the shift that Flux has, and Flux with the fixed one of schnell."""
    for name, options in (
        ("Stable Diffusion 3", {"use_dynamic_shifting": True, "max_shift": 1.16}),
        ("Flux", {"shift": 1.0}),
    ):
        pipe = build(name)
        pipe.scheduler = FlowMatchEulerDiscreteScheduler(**options)
        latents = own(model_of(name, pipe), "flow_euler")
        expected = pictures(pipe, name, output_type="latent")
        if name == "Flux":
            expected = pipe._unpack_latents(expected, *[SIZES[name]] * 2, pipe.vae_scale_factor)
        assert torch.equal(latents, expected)


def test_a_decoder_that_would_overflow_runs_in_float32_and_stays_half() -> None:
    pipe = build("SDXL")
    pipe.to(torch.float16)
    pipe.vae.register_to_config(force_upcast=True)
    model = model_of("SDXL", pipe)
    latents = torch.randn(2, *model.latent_shape, generator=torch.Generator().manual_seed(0))
    before, seen = model.identity(), model.decode(latents)
    assert pipe.vae.dtype == torch.float16 and model.identity() == before
    wide = build("SDXL")
    wide.to(torch.float16)
    wide.vae.to(torch.float32)
    expected = wide.vae.decode(latents / wide.vae.config.scaling_factor).sample.clamp(-1, 1)
    assert torch.allclose(seen, expected, rtol=0, atol=1e-6)
