"""Coefficients of the newer samplers against the schedulers' own updates, and what has none."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from redi.errors import UsageError
from redi.models.mixture import SCHEDULE, MixtureModel
from redi.samplers import SAMPLERS, Sampler, SamplerState, build_sampler, drive
from redi.samplers.coefficients import METHODS, dpm_solver, exponential, unipc_corrector
from redi.theory.blocks import certificate_block
from redi.theory.certificate import TOLERANCE, check
from redi.theory.config import TheoryConfig
from redi.theory.multistep import WITHOUT_FORM, multistep
from redi.theory.observe import observe

FLOW = {"shift": 3.0, "num_train_timesteps": 1000}
CASES = [
    ("euler", {}),
    ("flow_euler", {}),
    *((name, {"order": n}) for name in ("deis", "dpm_solver", "dpm_solver_pp") for n in (1, 2, 3)),
]


def sampler_of(name: str, steps: int, options: dict[str, Any]) -> Sampler:
    """With float64 levels, so that the scheduler's coefficients are not rounded to float32."""
    kind = SAMPLERS[name]
    spacing = "trailing" if "timestep_spacing" in kind.options else None
    sampler = build_sampler(name, FLOW if kind.flow else SCHEDULE, steps, spacing, **options)
    if name in ("deis", "dpm_solver", "dpm_solver_pp", "euler", "flow_euler", "unipc"):
        sampler.scheduler.sigmas = sampler.scheduler.sigmas.double()
    return sampler


def start() -> Tensor:
    return torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(0)).double()


def curved(latents: Tensor, timestep: Tensor) -> Tensor:
    return torch.sin(2 * latents + float(timestep) / 300)


def gap(sampler: Sampler, state: SamplerState, carried: int = 0) -> float:
    """Largest relative difference between the sampler's updates and the multistep form."""
    alpha, worst = sampler.levels.alpha, 0.0
    updates = multistep(sampler, state.step, carried)
    past = [item.double() for item in reversed(state.history)]
    for update, record in zip(updates, sampler.records(state, curved), strict=True):
        y = state.latents.double() / alpha[state.step]
        past.insert(0, update.prediction(y, record.predictions[0]))
        assert math.isclose(sum(update.weights), 1, abs_tol=1e-9)
        state = record.state
        got = state.latents.double() / alpha[state.step]
        worst = max(worst, float((got - update.apply(y, past)).norm() / got.norm()))
    return worst


@pytest.mark.parametrize("steps", [8, 20])
@pytest.mark.parametrize(("name", "options"), CASES)
def test_coefficients_are_the_schedulers(name: str, options: dict[str, Any], steps: int) -> None:
    sampler = sampler_of(name, steps, options)
    first = drive(sampler.update(sampler.initial(start())), curved).state
    # a flow starts at alpha = 0, where y does not exist
    state = first if SAMPLERS[name].flow else sampler.initial(start())
    assert gap(sampler, state, len(state.history)) < 1e-6
    middle = sampler.finish(first, curved, stop=steps // 2)
    assert gap(sampler, middle, len(middle.history)) < 1e-6
    warm = sampler.resume(steps // 2, middle.latents, "rewarm")
    assert gap(sampler, warm) < 1e-6
    orders = [len(update.weights) for update in multistep(sampler, 1)]
    assert max(orders) == options.get("order", 1)


def test_extrapolations_are_exact_for_polynomials() -> None:
    """DEIS integrates a parabola in log rho exactly, DPM-Solver (order 3) a line."""
    z, places = -0.3, [0.0, 0.25, 0.6]
    u = torch.linspace(0, z, 20001, dtype=torch.float64)
    weights = exponential(z, places)
    for degree in range(3):
        exact = float(torch.trapezoid(u**degree * u.exp(), u)) / math.expm1(z)
        found = sum(w * s**degree for w, s in zip(weights, places, strict=True))
        assert found == pytest.approx(exact, abs=1e-8)
        if degree < 2:
            line = dpm_solver([1, math.exp(0.25), math.exp(0.6)], math.exp(z), 1)
            assert sum(w * s**degree for w, s in zip(line, places, strict=True)) == pytest.approx(
                exact, abs=1e-8
            )


@pytest.mark.parametrize("steps", [8, 20])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_unipc_predicts_and_corrects_as_the_scheduler_does(order: int, steps: int) -> None:
    sampler = sampler_of("unipc", steps, {"order": order})
    alpha, rho = sampler.levels.alpha.tolist(), sampler.levels.rho.tolist()
    y = corrected = start() / alpha[0]  # the state that the network sees, and the corrected one
    clean: list[Tensor] = []  # newest first
    for record in sampler.records(sampler.initial(start()), curved):
        i = record.state.step - 1
        clean.insert(0, y - rho[i] * curved(alpha[i] * y, sampler.call_timesteps[i][0]))
        if i:
            used = rho[i - min(order, i) : i + 1][::-1]
            corrected = unipc_corrector(used).apply(corrected, clean)
        count = min(order, i + 1, steps - i)
        predictor = METHODS["unipc"](rho[i - count + 1 : i + 1][::-1], rho[i + 1])
        y = predictor.apply(corrected, clean)
        got = record.state.latents.double() / alpha[i + 1]
        assert float((got - y).norm() / got.norm()) < 2e-6


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_has_coefficients_or_a_reason(name: str) -> None:
    steps = 10
    if name in WITHOUT_FORM:
        with pytest.raises(UsageError, match="is no linear multistep method, .*: use one of ddim"):
            multistep(sampler_of(name, steps, {}))
    else:
        assert len(multistep(sampler_of(name, steps, {}), 1)) == steps - 1


def test_where_y_does_not_exist_is_said() -> None:
    with pytest.raises(UsageError, match="flow_euler starts from pure noise.*from step 1 on"):
        multistep(sampler_of("flow_euler", 8, {}))


def test_bounds_on_euler_are_those_on_ddim() -> None:
    euler, ddim = (multistep(sampler_of(n, 10, {})) for n in ("euler", "ddim"))
    for mine, other in zip(euler, ddim, strict=True):
        assert mine.alpha == pytest.approx(other.alpha, rel=1e-5)
        assert mine.weights == other.weights


def test_the_certificate_holds_for_deis() -> None:
    model = MixtureModel()
    prompts = model.prompts()
    config = TheoryConfig(value_steps=(6, 10, 16), neighbours=4, order_steps=(50, 100))
    seen = observe(model, "deis", prompts[:600:20], prompts[10::20], config)
    for record in (seen.pairs, seen.random_pairs):
        verdict = check(record)
        assert not verdict.violated.any() and 0.05 < verdict.ratio.max() <= 1
        assert (record.residual <= TOLERANCE * record.move).all()
    block = certificate_block(seen, config.perturbation)
    assert block["perturbed_violations"]["b1"] == block["pairs"] == 120
    with pytest.raises(UsageError, match="samplers has 'euler', .* use ddim"):
        observe(model, "euler", ["a"], ["b"], config)
