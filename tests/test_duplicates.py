"""Trajectories that repeat one another are left out together, whatever is fitted to them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from redi.methods.corrected.adaptive import fit_policy
from redi.methods.corrected.fit import Recipe, fit_step
from redi.methods.corrected.groups import first_rows, groups_of, members, repeats
from redi.methods.corrected.kernel import Choice, affinity, fit_kernel
from redi.methods.corrected.local import fit_local
from redi.methods.corrected.nearest import fit_nearest
from redi.methods.few.bases import Visit


def draws(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_rows_that_agree_in_prompt_and_noise_are_a_group() -> None:
    groups = groups_of(["a", "b", "a", "a", "b"], [0, 0, 1, 0, 0])
    assert groups.tolist() == [0, 1, 2, 0, 1]
    assert [rows.tolist() for rows in members(groups)] == [[0, 3], [1, 4], [2]]
    assert first_rows(groups).tolist() == [0, 1, 2]
    assert repeats(groups) == 2


@pytest.mark.parametrize("kernel", ["gaussian", "laplacian", "linear"])
def test_a_kernel_fit_leaves_whole_groups_out(kernel: str) -> None:
    inputs, targets = draws(9, 3), draws(9, 2, seed=1)
    groups = torch.tensor([0, 1, 0, 2, 3, 3, 3, 4, 1])
    fitted, left_out, _ = fit_kernel(inputs, targets, [Choice(kernel, 1.0, 0.1)], groups)
    centred = inputs - inputs.mean(0)
    for own in members(groups):
        rest = [i for i in range(9) if i not in own.tolist()]
        gram = affinity(centred[rest], centred[rest], kernel, fitted.scale)
        solved = torch.linalg.solve(gram + 0.1 * torch.eye(len(rest)).double(), targets[rest])
        again = affinity(centred[own], centred[rest], kernel, fitted.scale) @ solved
        assert torch.allclose(left_out[own], again, atol=1e-8)


def test_nearest_rows_are_of_other_groups() -> None:
    inputs, targets = draws(6, 3), draws(6, 2, seed=1)
    twice = [torch.cat([item, item]) for item in (inputs, targets)]
    groups = torch.arange(6).repeat(2)
    choices = [Choice("gaussian", 1.0, 1e-6)]
    _, left_out, _ = fit_nearest(twice[0], twice[1], choices, 1, groups)
    distance = torch.cdist(inputs, inputs) + 1e9 * torch.eye(6).double()
    nearest = distance.argmin(1)
    # with one neighbour the prediction is a multiple of its target
    scale = (left_out[:6] * targets[nearest]).sum(1) / targets[nearest].square().sum(1)
    assert torch.allclose(left_out[:6], scale[:, None] * targets[nearest], atol=1e-5)
    assert torch.allclose(left_out[:6], left_out[6:])


def test_folds_of_a_patch_map_are_made_of_groups() -> None:
    planes, targets = draws(5, 2, 4, 4), draws(5, 3, 4, 4, seed=1)
    groups = torch.tensor([7, 7, 3, 3, 5])
    _, left_out, _ = fit_local(planes, targets, (1,), folds=8, ridges=(1e-3,), groups=groups)
    for own in members(groups):
        rest = [i for i in range(5) if i not in own.tolist()]
        without, _, _ = fit_local(planes[rest], targets[rest], (1,), folds=2, ridges=(1e-3,))
        assert torch.allclose(without(planes[own]).double(), left_out[own], atol=1e-5)
    with pytest.raises(ValueError, match="two different trajectories"):
        fit_local(planes, targets, (1,), groups=torch.zeros(5).long())


@pytest.mark.parametrize("nearest", [None, 4])
@pytest.mark.parametrize("part", ["local", "kernel", "both"])
def test_a_step_predicts_the_same_error_with_every_trajectory_twice(
    part: str, nearest: int | None
) -> None:
    noise, residual = draws(16, 2, 3, 3), draws(16, 2, 3, 3, seed=1)
    recipe: dict[str, Any] = {"parts": (part,), "features": ("prediction",), "patches": (1,)}

    def error(rows: Tensor, groups: Tensor) -> float:
        near = None if nearest is None else nearest * len(rows) // 16  # as many different ones
        visits = [Visit(1.0, torch.zeros_like(noise[rows]), noise[rows])]
        chosen = Recipe(**recipe, nearest=near)
        step, _ = fit_step(chosen, visits, residual[rows], torch.zeros(len(rows)).long(), groups)
        return step.errors[part]

    once, twice = torch.arange(16), torch.arange(16).repeat(2)
    single = error(once, once)
    assert error(twice, twice) == pytest.approx(single, rel=0.1)
    if part == "kernel":
        assert error(twice, torch.arange(32)) < 0.1 * single  # what not knowing them costs


def test_repeated_trajectories_count_once_in_an_adaptive_budget() -> None:
    features, errors = draws(12, 3), draws(12, 2, seed=1).exp().sort(1).values
    once = fit_policy(features, errors, (8, 4), 1.0, 0.3)
    rows = torch.arange(12).repeat(3)
    many = fit_policy(features[rows], errors[rows], (8, 4), 1.0, 0.3, rows)
    unaware = fit_policy(features[rows], errors[rows], (8, 4), 1.0, 0.3)
    assert many.fixed == once.fixed
    assert many.threshold == pytest.approx(once.threshold, rel=0.3)
    assert abs(unaware.threshold - once.threshold) > abs(many.threshold - once.threshold)
