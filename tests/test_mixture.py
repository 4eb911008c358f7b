"""The analytic mixture: prediction, constant and exact solution, each computed independently."""

from __future__ import annotations

import math

import pytest
import torch
from torch.func import jacrev

from redi.errors import UsageError
from redi.models.mixture import MixtureModel
from redi.samplers import build_sampler

SHAPE = (4, 4, 4)


@pytest.fixture(scope="module")
def model() -> MixtureModel:
    return MixtureModel(components=6)


def points(count: int, scale: float = 1.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(7)
    return scale * torch.randn(count, *SHAPE, generator=generator, dtype=torch.float64)


def log_density(model: MixtureModel, x: torch.Tensor, t: int, names: str) -> torch.Tensor:
    """Log density of the forward marginal up to a constant, written out per component."""
    alpha, sigma = model.alpha[t], model.sigma[t]
    variance = alpha**2 * model.deviation**2 + sigma**2
    means = model.means[[model.names.index(name) for name in names]]
    squared = (x.flatten(1)[:, None] - alpha * means[None]).square().sum(-1)
    return torch.logsumexp(-squared / (2 * variance), dim=1)


@pytest.mark.parametrize("prompt", ["a", "b e", "a c f", ""])
@pytest.mark.parametrize("t", [0, 100, 500, 999])
def test_noise_is_minus_sigma_times_the_score(model, prompt, t):
    names = prompt.replace(" ", "") or model.names
    x = points(5).requires_grad_()
    log_density(model, x, t, names).sum().backward()
    mask = model.encode([prompt] * 5).states[:, 0] > 0
    got = model.noise(x.detach(), model.alpha[t], model.sigma[t], mask)
    torch.testing.assert_close(got, -model.sigma[t] * x.grad, rtol=1e-9, atol=1e-11)


def test_guidance_extrapolates_from_all_components():
    model = MixtureModel(components=6, guidance_scale=3.0)
    plain = MixtureModel(components=6, guidance_scale=1.0)
    x, t = points(2), torch.tensor(300)
    within = plain.predictor(plain.encode(["a b"] * 2))(x, t)
    without = plain.predictor(plain.encode([""] * 2))(x, t)
    guided = model.predictor(model.encode(["a b"] * 2))(x, t)
    torch.testing.assert_close(guided, 3 * within - 2 * without, rtol=1e-12, atol=1e-12)


def test_each_row_has_its_own_prompt_and_calls_are_counted(model):
    x, t, prompts = points(3), torch.tensor(200), ["a", "b c", ""]
    before = model.meter.calls
    together = model.predictor(model.encode(prompts))(x, t)
    assert model.meter.calls == before + 3
    for row, prompt in enumerate(prompts):
        alone = model.predictor(model.encode([prompt]))(x[row : row + 1], t)
        torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-12, atol=1e-12)


def test_prompt_is_a_set_of_names(model):
    states = model.encode(["c a", "a c", "a c c", "a"]).states
    assert states.shape == (4, 1, 6)
    assert torch.equal(states[0], states[1]) and torch.equal(states[0], states[2])
    assert not torch.equal(states[0], states[3])
    assert len(model.prompts(3)) == 6 + 15 + 20 == len(set(model.prompts(3)))


@pytest.mark.parametrize("prompt", ["g", "a zebra", "ab"])
def test_unknown_component_is_refused(model, prompt):
    with pytest.raises(UsageError, match="unknown component"):
        model.encode([prompt])


def jacobian_norms(model: MixtureModel, prompt: str, t: int, x: torch.Tensor) -> torch.Tensor:
    predict = model.predictor(model.encode([prompt]))
    step = torch.tensor(t)
    return torch.stack(
        [
            torch.linalg.matrix_norm(
                jacrev(lambda z: predict(z.reshape(1, *SHAPE), step).flatten())(p.flatten()), ord=2
            )
            for p in x
        ]
    )


@pytest.mark.parametrize("guidance", [1.0, 2.0])
@pytest.mark.parametrize("prompt", ["a", "a d", "b c e"])
@pytest.mark.parametrize("t", [0, 60, 250, 600, 999])
def test_no_jacobian_exceeds_the_known_constant(guidance, prompt, t):
    model = MixtureModel(components=6, guidance_scale=guidance)
    bound = float(model.lipschitz([prompt], t))
    centre = model.alpha[t] * model.means.mean(0).reshape(SHAPE)
    samples = centre + torch.cat([points(3, 0.05), points(3, 0.5)])
    found = jacobian_norms(model, prompt, t, samples)
    assert found.max() <= bound * (1 + 1e-9)
    if prompt == "a" and guidance == 1:
        torch.testing.assert_close(float(found.max()), bound, rtol=1e-9, atol=0)


def test_the_known_constant_is_attained_between_two_components():
    """Half-way between two means the covariance reaches Popoviciu's bound: no slack is left."""
    model = MixtureModel(components=6, guidance_scale=1.0, deviation=0.3)
    t = 60
    middle = model.alpha[t] * model.means[[0, 3]].mean(0).reshape(1, *SHAPE)
    found = jacobian_norms(model, "a d", t, middle)
    assert float(model.lipschitz(["a d"], t)) > float(model.lipschitz(["a"], t))
    torch.testing.assert_close(found, model.lipschitz(["a d"], t), rtol=1e-9, atol=0)


def test_single_solution_solves_the_flow():
    """`dy / d rho = eps` along the closed form, by central differences in rho."""
    model = MixtureModel(components=3, guidance_scale=1.0)
    start = (model.alpha[999], model.sigma[999])
    x = points(2)

    def level(rho: float) -> tuple[torch.Tensor, torch.Tensor]:
        alpha = torch.tensor(1 / math.sqrt(1 + rho**2), dtype=torch.float64)
        return alpha, rho * alpha

    rho, h = 0.8, 1e-5
    after, before = (
        model.single_solution("b", x, start, level(r)) / level(r)[0] for r in (rho + h, rho - h)
    )
    state = model.single_solution("b", x, start, level(rho))
    mask = model.encode(["b"] * 2).states[:, 0] > 0
    slope = model.noise(state, *level(rho), mask)
    torch.testing.assert_close((after - before) / (2 * h), slope, rtol=1e-8, atol=1e-9)


def test_decoder_obeys_its_lipschitz_constant(model):
    x = points(8)
    y = x + 1e-4 * points(16)[8:]
    pictures = model.decode(x)
    assert pictures.shape == (8, 3, 32, 32) and pictures.abs().max() <= 1
    moved = (model.decode(y) - pictures).double().flatten(1).norm(dim=1)
    assert (moved <= model.decoder_lipschitz * (y - x).flatten(1).norm(dim=1) * (1 + 1e-3)).all()


def test_the_flow_ends_inside_the_prompts_component():
    """A sampler with many steps carries noise to samples near the mean of the prompt."""
    model = MixtureModel(components=6, guidance_scale=1.0)
    sampler = build_sampler("dpm_solver_pp", model.scheduler_config, 50, "trailing")
    state = sampler.finish(sampler.initial(points(64)), model.predictor(model.encode(["c"] * 64)))
    offsets = state.latents.double().flatten(1) - model.means[2]
    assert abs(float(offsets.std()) - model.deviation) < 0.05 * model.deviation


def test_identity_names_what_differs():
    assert MixtureModel(seed=0).identity() == MixtureModel(seed=0).identity()
    assert MixtureModel(seed=0).identity() != MixtureModel(seed=1).identity()
    assert MixtureModel(seed=0).identity() != MixtureModel(guidance_scale=1.5).identity()


@pytest.mark.parametrize("arguments", [{"components": 0}, {"components": 27}, {"deviation": 0.0}])
def test_impossible_mixtures_are_refused(arguments):
    with pytest.raises(UsageError, match="model\\."):
        MixtureModel(**arguments)
