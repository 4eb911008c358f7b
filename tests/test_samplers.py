"""Samplers: exact against diffusers, exact when a state is put back, counted calls."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from redi.data.noise import NoisePolicy
from redi.errors import UsageError
from redi.models.text_to_image import TextToImageModel, load_pipeline
from redi.samplers import SAMPLERS, SamplerState, build_sampler, build_scheduler
from redi.tasks.assemble import EMBEDDED_MODEL
from redi.tasks.train_diffusion import new_scheduler

CONFIG = {k: v for k, v in new_scheduler().config.items() if k[0] != "_"}
STEPS = 20
PROMPTS = ["a large red apple", "a small fox on a blue background", "", "3d style"]


def curved(latents: Tensor, timestep: Tensor) -> Tensor:
    """A smooth, nonlinear stand-in for a network; rows do not mix."""
    mixed = latents + 0.3 * latents.roll(1, dims=1)
    return torch.tanh(mixed) + 0.1 * torch.sin(3 * latents + timestep / 300)


def start(rows: int = 3) -> Tensor:
    return torch.randn(rows, 4, 4, 4, generator=torch.Generator().manual_seed(1))


def relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("spacing", ["trailing", "leading"])
@pytest.mark.parametrize("name", SAMPLERS)
def test_plain_run_equals_the_scheduler_loop(name: str, spacing: str) -> None:
    sampler = build_sampler(name, CONFIG, STEPS, spacing)
    scheduler = build_scheduler(name, CONFIG, spacing)
    scheduler.set_timesteps(STEPS)
    latents = start() * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        latents = scheduler.step(curved(latents, t), t, latents).prev_sample
    assert torch.equal(sampler.finish(sampler.initial(start()), curved).latents, latents)


@pytest.mark.parametrize("name", ["ddim", "pndm", "dpm_solver_pp"])
@pytest.mark.parametrize("which", ["tiny", "embedded"])
def test_plain_run_equals_the_unmodified_pipeline(
    name: str, which: str, tiny_model: TextToImageModel
) -> None:
    if which == "tiny":
        model = tiny_model
    else:
        pipeline = load_pipeline(EMBEDDED_MODEL, torch.float32, torch.device("cpu"))
        model = TextToImageModel(pipeline, guidance_scale=2.5, batch_size=4)
    noise, pipeline = NoisePolicy(seed=5), model.pipeline
    pipeline.set_progress_bar_config(disable=True)
    original, pipeline.scheduler = pipeline.scheduler, build_scheduler(name, CONFIG, "trailing")
    side = 8 * model.latent_shape[1] // (8 // pipeline.vae_scale_factor)
    expected = pipeline(
        PROMPTS,
        height=side,
        width=side,
        num_inference_steps=6,
        guidance_scale=2.5,
        generator=[noise.generator(i) for i in range(4)],
        output_type="latent",
    ).images
    pipeline.scheduler = original
    sampler = build_sampler(name, model.scheduler_config, 6, "trailing")
    state = sampler.initial(noise.draw([0, 1, 2, 3], model.latent_shape))
    found = sampler.finish(state, model.predictor(model.encode(PROMPTS))).latents
    assert torch.equal(found, expected)


@pytest.mark.parametrize("name", SAMPLERS)
def test_own_state_put_back_is_exact_and_rewarming_is_close(name: str) -> None:
    sampler = build_sampler(name, CONFIG, STEPS, "trailing")
    states = [r.state for r in sampler.run(sampler.initial(start()), curved)]
    full = states[-1].latents
    for state in states[:-1]:
        history = state.history
        assert len(history) == sampler.history_after(state.step)
        back = sampler.resume(state.step, state.latents, "retrieved", history)
        assert torch.equal(sampler.finish(back, curved).latents, full)
        warm = sampler.resume(state.step, state.latents, "rewarm")
        error = relative(sampler.finish(warm, curved).latents, full)
        assert error == 0 if name == "ddim" else error < 5e-2


def test_published_pndm_resume_is_one_step_behind_and_the_default_is_not() -> None:
    step = 12
    sampler = build_sampler("pndm", CONFIG, STEPS, "leading")
    states = [r.state for r in sampler.run(sampler.initial(start()), curved)]
    at, full = states[step - 1], states[-1].latents
    fresh = build_scheduler("pndm", CONFIG, "leading")
    fresh.set_timesteps(STEPS)
    published = at.latents
    for t in fresh.timesteps[-(STEPS - step) :]:
        published = fresh.step(curved(published, t), t, published).prev_sample
    legacy = sampler.resume(step, at.latents, "legacy")
    assert torch.equal(sampler.finish(legacy, curved).latents, published)
    rewarmed = sampler.finish(sampler.resume(step, at.latents, "rewarm"), curved).latents
    assert relative(published, full) > 30 * relative(rewarmed, full)


@pytest.mark.parametrize("name", SAMPLERS)
def test_states_advance_in_any_order_and_batch(name: str) -> None:
    sampler = build_sampler(name, CONFIG, STEPS, "trailing")
    whole = sampler.finish(sampler.initial(start()), curved)
    parts = [sampler.initial(start()[i : i + 1]) for i in range(3)]
    for _ in range(STEPS):
        parts = [sampler.advance(part, curved).state for part in reversed(parts)][::-1]
    assert torch.equal(SamplerState.join(parts).latents, whole.latents)
    assert torch.equal(whole.take(slice(1, 2)).latents, parts[1].latents)


@pytest.mark.parametrize("name", SAMPLERS)
def test_calls_are_as_many_as_expected(name: str) -> None:
    sampler, made = build_sampler(name, CONFIG, STEPS, "trailing"), []

    def counting(latents: Tensor, timestep: Tensor) -> Tensor:
        made.append(int(timestep))
        return curved(latents, timestep)

    records = list(sampler.run(sampler.initial(start()), counting))
    assert len(made) == sampler.calls(0, STEPS) == STEPS + (name == "pndm")
    assert [len(r.predictions) for r in records] == [len(c) for c in sampler.call_timesteps]
    assert made == [int(t) for calls in sampler.call_timesteps for t in calls]


def test_ddim_is_euler_in_normalised_variables() -> None:
    sampler = build_sampler("ddim", CONFIG, STEPS, "trailing")
    before = sampler.initial(start().double())
    levels = sampler.levels
    for record in sampler.run(before, curved):
        i = before.step
        y, after = before.latents / levels.alpha[i], record.state.latents / levels.alpha[i + 1]
        step = (levels.rho[i + 1] - levels.rho[i]) * record.predictions[0]
        assert relative(after, y + step) < 1e-5
        before = record.state


@pytest.mark.parametrize("kind", ["v_prediction", "sample"])
def test_other_parametrisations_convert_to_the_same_noise(kind: str) -> None:
    sampler = build_sampler("ddim", CONFIG | {"prediction_type": kind}, STEPS, "trailing")
    clean, noise, step = start().double(), start().double().flip(0), 7
    alpha, sigma = (float(level[step]) for level in (sampler.levels.alpha, sampler.levels.sigma))
    output = {"v_prediction": alpha * noise - sigma * clean, "sample": clean}[kind]
    found = sampler.noise_prediction(output, alpha * clean + sigma * noise, step)
    assert torch.allclose(found, noise, atol=1e-10)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("euler", CONFIG, 10), ["sampler='euler'", "ddim"]),
        (("ddim", CONFIG, 0), ["sampling.steps=0"]),
        (("pndm", CONFIG, 1), ["sampling.steps=1"]),
        (("ddim", CONFIG, 10, "cosine"), ["timestep_spacing='cosine'", "trailing"]),
    ],
)
def test_bad_requests_are_named(arguments: tuple, words: list[str]) -> None:
    with pytest.raises(UsageError) as error:
        build_sampler(*arguments)
    assert all(word in str(error.value) for word in words)
