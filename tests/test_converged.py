"""The run that stands for the exact solution: where its calls lie, and how near it comes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from redi.errors import UsageError
from redi.models.mixture import MixtureModel
from redi.samplers import Sampler, build_sampler
from redi.samplers.converged import converged_sampler, converged_timesteps


@given(st.integers(2, 1200), st.integers(50, 1000))
def test_calls_fall_from_the_first_to_the_last_timestep_and_are_dense_at_both_ends(
    steps: int, trained: int
) -> None:
    found = converged_timesteps(steps, trained)
    assert found[0] == trained - 1 and found[-1] == 0 and len(found) <= max(2, min(steps, trained))
    strides = [a - b for a, b in zip(found, found[1:], strict=False)]
    assert min(strides) >= 1
    if steps >= trained:
        assert len(found) == trained
    elif 20 <= steps <= trained // 5 and trained >= 500:
        assert len(found) == steps  # rounding merges none
        ends, middle = (strides[0], strides[-1]), strides[len(strides) // 2]
        assert all(2 * end < middle for end in ends)


def test_few_calls_come_as_near_to_all_timesteps_as_many_even_ones() -> None:
    model = MixtureModel(guidance_scale=7.5)
    predict = model.predictor(model.encode(["a c f", "b", "d e"]))
    noise = torch.randn((3, *model.latent_shape), generator=torch.Generator().manual_seed(0))

    def end(sampler: Sampler) -> Tensor:
        start = sampler.initial(noise.double())
        return sampler.finish(start, predict).latents.flatten(1)

    exact = end(converged_sampler(model.scheduler_config, 1000))

    def error(sampler: Sampler) -> float:
        return float(((end(sampler) - exact).norm(dim=1) / exact.norm(dim=1)).mean())

    even = build_sampler("dpm_solver_pp", model.scheduler_config, 200, "trailing", 2)
    near = error(converged_sampler(model.scheduler_config, 200))
    assert near < error(even) / 5


def test_more_calls_than_timesteps_are_refused() -> None:
    with pytest.raises(UsageError, match=r"metrics\.converged_steps=1001 is more than the 1000"):
        converged_sampler(MixtureModel().scheduler_config, 1001)
