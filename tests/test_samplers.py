"""Samplers: exact against diffusers, exact when a state is put back, counted calls."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from redi.data.noise import NoisePolicy
from redi.embedded.diffusion import new_scheduler
from redi.errors import UsageError
from redi.models.text_to_image import TextToImageModel, load_pipeline
from redi.samplers import (
    SAMPLERS,
    Sampler,
    SamplerState,
    adapt,
    build_sampler,
    build_scheduler,
    drive,
)
from redi.verbs.assemble import EMBEDDED_MODEL

CONFIG = {k: v for k, v in new_scheduler().config.items() if k[0] != "_"}
FLOW = {"num_train_timesteps": 1000, "shift": 3.0}
#: flow models whose scheduler configuration carries betas, as Sana's and Wan's do
SANA = CONFIG | {
    "prediction_type": "flow_prediction",
    "use_flow_sigmas": True,
    "flow_shift": 3.0,
}
ZERO_SNR = CONFIG | {"rescale_betas_zero_snr": True}
STEPS = 20
#: every sampler, and the options that change its arithmetic
CASES: dict[str, dict[str, Any]] = {
    **{name: {} for name in SAMPLERS},
    "dpm_solver order 3": {"order": 3},
    "dpm_solver_pp order 3": {"order": 3},
    "dpm_solver_pp karras": {"use_karras_sigmas": True},
    "dpm_solver_single order 3": {"order": 3},
    "unipc order 3": {"order": 3},
    "deis order 3": {"order": 3},
    "euler karras": {"use_karras_sigmas": True},
}
FIRST_ORDER = ("ddim", "euler", "euler karras", "heun", "flow_euler", "flow_heun")


def sampler_of(case: str, steps: int = STEPS, spacing: str | None = "trailing") -> Sampler:
    name = case.split()[0]
    takes = "timestep_spacing" in SAMPLERS[name].options
    noise_form = {**CONFIG, "prediction_type": "epsilon"}  # what `curved` stands in for
    config = FLOW if SAMPLERS[name].flow else noise_form
    return build_sampler(name, config, steps, spacing if takes else None, **CASES[case])


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
@pytest.mark.parametrize("steps", [STEPS, 9])
@pytest.mark.parametrize("case", CASES)
def test_plain_run_equals_the_scheduler_loop(case: str, steps: int, spacing: str) -> None:
    sampler = sampler_of(case, steps, spacing)
    scheduler = type(sampler.scheduler).from_config(sampler.scheduler.config)
    scheduler.set_timesteps(steps)
    flow = SAMPLERS[case.split()[0]].flow
    latents = start() if flow else start() * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        seen = latents if flow else scheduler.scale_model_input(latents, t)
        latents = scheduler.step(curved(seen, t), t, latents).prev_sample
    assert torch.equal(sampler.finish(sampler.initial(start()), curved).latents, latents)


@pytest.mark.parametrize("name", ["ddim", "pndm", "dpm_solver_pp", "euler"])
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


@pytest.mark.parametrize("case", CASES)
def test_own_state_put_back_is_exact_and_rewarming_is_close(case: str) -> None:
    sampler = sampler_of(case)
    states = [r.state for r in sampler.records(sampler.initial(start()), curved)]
    full = states[-1].latents
    for state in states[:-1]:
        assert len(state.history) == sampler.history_after(state.step)
        back = sampler.resume(state.step, state.latents, "retrieved", state.history)
        assert torch.equal(sampler.finish(back, curved).latents, full)
        if not sampler.can_resume(state.step, "rewarm"):
            continue
        warm = sampler.resume(state.step, state.latents, "rewarm")
        error = relative(sampler.finish(warm, curved).latents, full)
        assert error == 0 if case in FIRST_ORDER else error < 5e-2


def test_published_pndm_resume_is_one_step_behind_and_the_default_is_not() -> None:
    step = 12
    sampler = build_sampler("pndm", CONFIG, STEPS, "leading")
    states = [r.state for r in sampler.records(sampler.initial(start()), curved)]
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


@pytest.mark.parametrize("case", CASES)
def test_states_advance_in_any_order_and_batch(case: str) -> None:
    sampler = sampler_of(case)
    whole = sampler.finish(sampler.initial(start()), curved)
    parts = [sampler.initial(start()[i : i + 1]) for i in range(3)]
    for _ in range(STEPS):
        parts = [drive(sampler.update(part), curved).state for part in reversed(parts)][::-1]
    assert torch.equal(SamplerState.join(parts).latents, whole.latents)
    assert torch.equal(whole.take(slice(1, 2)).latents, parts[1].latents)


@pytest.mark.parametrize("case", CASES)
def test_calls_are_as_many_as_expected(case: str) -> None:
    sampler, made = sampler_of(case), []

    def counting(latents: Tensor, timestep: Tensor) -> Tensor:
        made.append(float(timestep))
        return curved(latents, timestep)

    records = sampler.records(sampler.initial(start()), counting)
    extra = {"pndm": 1, "pndm_prk": 9, "heun": STEPS - 1, "flow_heun": STEPS - 1}
    assert len(made) == sampler.calls(0, STEPS) == STEPS + extra.get(case, 0)
    assert [len(r.predictions) for r in records] == [len(c) for c in sampler.call_timesteps]
    assert made == [float(t) for calls in sampler.call_timesteps for t in calls]


def test_ddim_is_euler_in_normalised_variables() -> None:
    sampler = build_sampler("ddim", CONFIG, STEPS, "trailing")
    before = sampler.initial(start().double())
    levels = sampler.levels
    for record in sampler.records(before, curved):
        i = before.step
        y, after = before.latents / levels.alpha[i], record.state.latents / levels.alpha[i + 1]
        step = (levels.rho[i + 1] - levels.rho[i]) * record.predictions[0]
        assert relative(after, y + step) < 1e-5
        before = record.state


@pytest.mark.parametrize("case", [case for case in CASES if "karras" not in case])
def test_a_straight_trajectory_passes_through_every_level(case: str) -> None:
    """With one clean picture and one noise every method is exact, so each state is known."""
    name = case.split()[0]
    # diffusers' PNDM averages velocities of different levels before it converts them
    kind = "epsilon" if name.startswith("pndm") else "v_prediction"
    model = FLOW if SAMPLERS[name].flow else CONFIG | {"prediction_type": kind}
    spacing = "trailing" if "timestep_spacing" in SAMPLERS[name].options else None
    sampler = build_sampler(name, model, STEPS, spacing, **CASES[case])
    clean, noise = start().double(), start().double().flip(0)

    def velocity(latents: Tensor, timestep: Tensor) -> Tensor:
        if SAMPLERS[name].flow:
            return noise - clean
        if kind == "epsilon":
            return noise
        squared = sampler.scheduler.alphas_cumprod.double()[int(timestep)]
        return squared.sqrt() * noise - (1 - squared).sqrt() * clean

    alpha, sigma = sampler.levels.alpha, sampler.levels.sigma
    begin = SamplerState(0, alpha[0] * clean + sigma[0] * noise)
    for record in sampler.records(begin, velocity):
        i = record.state.step
        assert relative(record.state.latents, alpha[i] * clean + sigma[i] * noise) < 2e-4
        assert all(relative(found, noise) < 2e-3 for found in record.predictions)
    assert len(alpha) == STEPS + 1 and sigma[-1] < 0.05


def test_a_jump_into_a_group_of_updates_is_refused_with_the_nearest_steps() -> None:
    sampler = sampler_of("dpm_solver_single order 3")
    assert [s for s in range(9) if sampler.can_resume(s, "rewarm")] == [0, 3, 6]
    with pytest.raises(UsageError, match="value_step=7 .*use 6 or 9"):
        sampler.resume(7, start(), "rewarm")
    with pytest.raises(UsageError, match="value_step=8"):
        sampler.check_jump(8, "legacy")
    sampler.check_jump(7, "retrieved")


def test_a_resume_that_keeps_unipc_correcting_the_old_sample_would_be_wrong() -> None:
    sampler = sampler_of("unipc")
    states = [r.state for r in sampler.records(sampler.initial(start()), curved)]
    at, full = states[11], states[-1].latents
    other = sampler.finish(sampler.initial(start().flip(0)), curved, 4)
    stale = SamplerState(at.step, at.latents, other.history)
    warm = sampler.resume(at.step, at.latents, "rewarm")
    assert relative(sampler.finish(warm, curved).latents, full) < 1e-2
    assert relative(sampler.finish(stale, curved).latents, full) > 0.1


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
        (("sundial", CONFIG, 10), ["sampler='sundial'", "ddim"]),
        (("euler_ancestral", CONFIG, 10), ["stochastic", "fresh noise", "ddim"]),
        (("ddim", CONFIG, 10, "trailing", 3), ["sampler.order=3", "sampler=ddim", "deis"]),
        (("deis", CONFIG, 10, "trailing", 4), ["sampler.order=4"]),
        (("pndm", CONFIG, 10, None, None, True), ["use_karras_sigmas=True", "sampler=pndm"]),
        (("dpm_solver_single", CONFIG, 10, "trailing"), ["timestep_spacing", "null"]),
        (("flow_euler", CONFIG, 10), ["sampler=flow_euler", "ddim"]),
        (("ddim", FLOW, 10), ["sampler=ddim", "flow_euler"]),
        (("pndm_prk", CONFIG, 3), ["sampling.steps=3", "at least 4"]),
        (("ddim", CONFIG, 0), ["sampling.steps=0"]),
        (("pndm", CONFIG, 1), ["sampling.steps=1"]),
        (("ddim", CONFIG, 10, "cosine"), ["timestep_spacing='cosine'", "trailing"]),
        (("ddim", CONFIG, 1001, "trailing"), ["sampling.steps=1001", "at most 1000"]),
        (("ddim", CONFIG, 1000, "leading"), ["sampling.steps=1000", "timestep 1000", "trailing"]),
        (("pndm", CONFIG, 1000, "leading"), ["sampling.steps=1000", "timestep 1000", "trailing"]),
        (("dpm_solver_pp", CONFIG, 1000, "linspace"), ["steps=1000", "do not fall", "fewer"]),
        (("unipc", CONFIG, 999, "leading"), ["sampling.steps=999", "timestep 1000"]),
        (("dpm_solver_pp", SANA, 10, None, None, True), ["do not exist", "use_karras_sigmas"]),
        (("ddim", SANA, 10), ["sampler=ddim", "'flow_prediction'", "use one of dpm_solver_pp"]),
        (("pndm", SANA, 10), ["sampler=pndm", "'flow_prediction'", "unipc"]),
        (("euler", SANA, 10), ["sampler=euler", "'flow_prediction'", "unipc"]),
        (("flow_euler", SANA, 10), ["sampler=flow_euler", "'flow_prediction'", "unipc"]),
        (("pndm", CONFIG | {"prediction_type": "sample"}, 10), ["sampler=pndm", "'sample'"]),
        (("euler", CONFIG | {"interpolation_type": "log_linear"}, 10), ["interpolation_type"]),
        (("flow_euler", FLOW | {"stochastic_sampling": True}, 10), ["stochastic", "fresh noise"]),
        (("flow_heun", FLOW | {"stochastic_sampling": True}, 10), ["stochastic", "fresh noise"]),
        (("flow_euler", FLOW | {"use_dynamic_shifting": True}, 10), ["flow_euler", "mu"]),
        *(
            ((name, ZERO_SNR | {"prediction_type": "epsilon"}, 10, "trailing"), ["zero signal"])
            for name in ("ddim", "dpm_solver_pp", "unipc", "euler")
        ),
    ],
)
def test_bad_requests_are_named(arguments: tuple, words: list[str]) -> None:
    with pytest.raises(UsageError) as error:
        build_sampler(*arguments)
    assert all(word in str(error.value) for word in words)


def test_a_users_scheduler_is_checked_as_well() -> None:
    scheduler = build_scheduler("pndm", CONFIG)
    scheduler.set_timesteps(1)
    with pytest.raises(UsageError, match="num_inference_steps=1 is too small for sampler=pndm"):
        adapt(scheduler)
    assert adapt(build_sampler("ddim", ZERO_SNR, 10, "trailing").scheduler).name == "ddim"


@pytest.mark.parametrize("case", ["unipc", "unipc order 3", "dpm_solver_single order 3"])
def test_history_says_which_items_are_states(case: str) -> None:
    sampler = sampler_of(case)
    states, found = [sampler.initial(start())], 0
    for _ in range(STEPS - 1):
        states.append(sampler.finish(states[-1], curved, states[-1].step + 1))
        at = sampler.history_steps(states[-1].step)
        assert len(at) == len(states[-1].history)
        for item, step in zip(states[-1].history, at, strict=True):
            if step is not None:  # UniPC keeps the corrected state, which is near the one it ran
                found += 1
                assert relative(item, states[step].latents) < (0.02 if "unipc" in case else 1e-9)
    assert found >= STEPS // 2
    assert build_sampler("pndm", CONFIG, STEPS).history_steps(5) == (None, None, None)


def test_a_sampler_is_one_adapter_and_its_line() -> None:
    from diffusers import DDIMScheduler

    from redi.samplers.catalogue import Kind
    from redi.samplers.ddim import DDIM

    class ToyScheduler(DDIMScheduler):
        pass

    class Toy(DDIM):
        name = "toy"

    SAMPLERS["toy"] = Kind(Toy, ToyScheduler)
    try:
        toy, ddim = (build_sampler(name, CONFIG, STEPS, "trailing") for name in ("toy", "ddim"))
        both = [s.finish(s.initial(start()), curved).latents for s in (toy, ddim)]
        assert torch.equal(*both)
        assert adapt(toy.scheduler).name == "toy"  # as a pipeline's own scheduler
    finally:
        del SAMPLERS["toy"]
    with pytest.raises(UsageError, match="sampler='toy' is unknown"):
        build_sampler("toy", CONFIG, STEPS)
