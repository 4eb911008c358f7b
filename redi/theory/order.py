"""Convergence order of the samplers on the one trajectory that is known exactly."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from redi.models.mixture import MixtureModel
from redi.samplers import build_sampler

#: Share of the updates after which the error is taken. Towards the end `rho` behaves like the root
#: of the timestep and no grid that is uniform in time resolves it, whatever the method's order.
MEASURED_AT = 4 / 5
_SAMPLES = 8


@dataclass(frozen=True)
class Order:
    """Errors against the exact solution; the slope is that of log error in log steps."""

    steps: tuple[int, ...]
    errors: tuple[float, ...]
    slope: float
    #: the same at the end of the run, where the last updates dominate
    final_errors: tuple[float, ...]
    final_slope: float


def convergence_order(sampler_name: str, steps: Sequence[int], seed: int = 0) -> Order:
    """Fit the order on one Gaussian (PROOF.md, section 5), trailing grids, float64.

    `steps` must be multiples of 5 that divide 1000, so that the measured level is the same on
    every grid. Errors are relative to the exact state.
    """
    model = MixtureModel(components=1, guidance_scale=1.0)
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(_SAMPLES, *model.latent_shape, generator=generator, dtype=torch.float64)
    predict = model.predictor(model.encode(["a"] * _SAMPLES))
    errors: list[tuple[float, float]] = []
    for count in steps:
        sampler = build_sampler(sampler_name, model.scheduler_config, count, "trailing")
        alpha, sigma = sampler.levels.alpha, sampler.levels.sigma
        state, found = sampler.initial(noise), []
        for stop in (round(count * MEASURED_AT), count):
            state = sampler.finish(state, predict, stop)
            exact = model.single_solution(
                "a", noise, (alpha[0], sigma[0]), (alpha[stop], sigma[stop])
            )
            found.append(float((state.latents.double() - exact).norm() / exact.norm()))
        errors.append((found[0], found[1]))
    inner, final = zip(*errors, strict=True)
    return Order(tuple(steps), inner, _slope(steps, inner), final, _slope(steps, final))


def _slope(steps: Sequence[int], errors: Sequence[float]) -> float:
    """Least-squares slope of -log(error) in log(steps)."""
    x = torch.tensor([math.log(n) for n in steps], dtype=torch.float64)
    y = torch.tensor([-math.log(e) for e in errors], dtype=torch.float64)
    x = x - x.mean()
    return float((x * (y - y.mean())).sum() / x.square().sum())
