"""Retrieval-corrected sampling: exact where it must be, and better where it claims to be."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from running import answered, lab, run_corrected, run_plain
from torch import Tensor

from redi.data.noise import NoisePolicy
from redi.errors import UsageError
from redi.methods.corrected import Corrected, Correction, Recipe, fit_correction, method
from redi.methods.corrected.kernel import Choice, affinity, fit_kernel
from redi.methods.corrected.levels import best_plan, refined
from redi.methods.corrected.local import fit_local
from redi.methods.corrected.store import correction_path, load_correction, save_correction
from redi.methods.few import Plan
from redi.methods.few.placement import coarse_steps, plan
from redi.metrics.latent_error import latent_error
from redi.models.mixture import MixtureModel
from redi.samplers import Calls, Sampler, build_sampler, drive

STEPS = 40


def reference(
    model: MixtureModel, sampler: Sampler, prompts: list[str], noise: Tensor
) -> dict[int, Tensor]:
    """`y` of the reference trajectories after every step."""
    conditioning = model.encode(prompts)
    outcome = run_plain(model, sampler, conditioning, noise, tuple(range(STEPS + 1)))
    alpha = sampler.levels.alpha
    start = sampler.initial(noise).latents.double() / alpha[0]
    return {0: start} | {i: x.double() / alpha[i] for i, x in outcome.watched.items()}


def fit(
    model: MixtureModel,
    prompts: list[str],
    noise: Tensor,
    calls: int,
    recipe: Recipe,
    name: str = "dpm_solver_pp",
    partitions: Tensor | None = None,
    placement: str = "even",
) -> Correction:
    sampler = build_sampler(name, model.scheduler_config, STEPS, "trailing")
    states = reference(model, sampler, prompts, noise)
    chosen = plan(sampler, calls, placement)
    parts = torch.zeros(len(prompts), dtype=torch.long) if partitions is None else partitions
    calls = fit_correction(chosen, recipe, lambda i: states[chosen.steps[i]], parts, noise)
    return answered(calls, model, model.encode(prompts))


@pytest.fixture(scope="module")
def model() -> MixtureModel:
    return MixtureModel(components=10, spread=0.7, deviation=0.4)


@pytest.fixture(scope="module")
def split(model: MixtureModel) -> tuple[list[str], list[str]]:
    prompts = model.prompts(3)
    order = torch.randperm(len(prompts), generator=torch.Generator().manual_seed(0)).tolist()
    return [prompts[i] for i in order[:120]], [prompts[i] for i in order[120:152]]


def shared(model: MixtureModel, count: int) -> Tensor:
    return NoisePolicy().draw([0], model.latent_shape).repeat(count, 1, 1, 1)


@pytest.mark.parametrize("base", ["ddim", "dpm_solver_pp", "unipc"])
@pytest.mark.parametrize("calls", [4, 10])
def test_without_corrections_it_is_the_plain_sampler(
    model: MixtureModel, split: tuple[list[str], list[str]], base: str, calls: int
) -> None:
    known, queries = split
    recipe = Recipe(base=base, parts=("none",), states="exact")
    fitted = fit(model, known[:4], shared(model, 4), calls, recipe, name=base)
    few = build_sampler(base, model.scheduler_config, calls, "trailing")
    noise, conditioning = shared(model, len(queries)), model.encode(queries)
    mine = run_corrected(model, fitted, conditioning, noise, [0] * len(queries))
    plain = run_plain(model, few, conditioning, noise)
    assert mine.cost.calls == plain.cost.calls == calls
    assert torch.allclose(mine.latents.double(), plain.latents.double(), rtol=0, atol=2e-5)


@pytest.mark.parametrize("base", ["ddim", "dpm_solver_pp", "pndm", "unipc"])
def test_its_own_trajectory_in_the_kb_brings_back_the_full_run(
    model: MixtureModel, split: tuple[list[str], list[str]], base: str
) -> None:
    known, _ = split
    known, noise = known[:12], shared(model, 12)
    recipe = Recipe(base, "exact", ("kernel",), widths=(0.3,), ridges=(1e-9,))
    fitted = fit(model, known, noise, 4, recipe)
    sampler = fitted.plan.sampler
    full = run_plain(model, sampler, model.encode(known), noise)
    mine = run_corrected(model, fitted, model.encode(known), noise, [0] * 12)
    error = (mine.latents - full.latents).flatten(1).norm(dim=1)
    scale = full.latents.flatten(1).norm(dim=1)
    assert float((error / scale).max()) < 1e-4


def test_it_beats_its_base_and_predicts_its_own_error(
    model: MixtureModel, split: tuple[list[str], list[str]]
) -> None:
    known, queries = split
    noise, conditioning = shared(model, len(queries)), model.encode(queries)
    fitted = fit(model, known, shared(model, len(known)), 4, Recipe())
    full = run_plain(model, fitted.plan.sampler, conditioning, noise).latents.double()
    mine = run_corrected(model, fitted, conditioning, noise, [0] * len(queries))
    few = build_sampler("dpm_solver_pp", model.scheduler_config, 4, "trailing")
    plain = run_plain(model, few, conditioning, noise).latents.double()

    def error(latents: Tensor) -> Tensor:
        return (latents.double() - full).flatten(1).norm(dim=1) / full.flatten(1).norm(dim=1)

    assert float(error(mine.latents).mean()) < 0.7 * float(error(plain).mean())
    assert fitted.predicted_error is not None
    ratio = float(fitted.predicted_error.median() / error(mine.latents).median())
    assert 0.6 < ratio < 1.6


def test_a_result_does_not_depend_on_its_batch(
    model: MixtureModel, split: tuple[list[str], list[str]]
) -> None:
    known, queries = split
    fitted = fit(model, known[:40], shared(model, 40), 3, Recipe())
    noise = shared(model, 6)
    whole = run_corrected(model, fitted, model.encode(queries[:6]), noise, [0] * 6).latents
    for i in range(6):
        one = run_corrected(model, fitted, model.encode(queries[i : i + 1]), noise[:1], [0])
        assert torch.allclose(one.latents[0], whole[i], rtol=0, atol=1e-5)


def test_kernels_never_look_across_noises(
    model: MixtureModel, split: tuple[list[str], list[str]]
) -> None:
    known, queries = split
    policy, count = NoisePolicy("bank", 2), 40
    ids = [policy.kb_id(i) for i in range(count)]
    noise, recipe = policy.draw(ids, model.latent_shape), Recipe(parts=("kernel",))
    both = fit(model, known[:count], noise, 3, recipe, partitions=torch.tensor(ids))
    assert all(len(step.kernels[1].inputs) == count // 2 for step in both.steps)
    alone = replace(both, steps=tuple(replace(s, kernels={1: s.kernels[1]}) for s in both.steps))
    start = policy.draw([1, 1], model.latent_shape)
    conditioning = model.encode(queries[:2])
    results = [run_corrected(model, c, conditioning, start, [1, 1]).latents for c in (both, alone)]
    assert torch.equal(*results)
    mixed = policy.draw([0, 1], model.latent_shape)
    beside = run_corrected(model, both, conditioning, mixed, [0, 1]).latents
    assert torch.allclose(beside[1], results[0][1], rtol=0, atol=1e-6)
    with pytest.raises(UsageError, match="no trajectory with noise 3"):
        run_corrected(model, both, conditioning, start, [3, 3])


@settings(max_examples=20, deadline=None)
@given(st.integers(3, 12), st.integers(1, 4), st.sampled_from(["gaussian", "laplacian", "linear"]))
def test_left_out_predictions_equal_fits_without_the_row(rows: int, size: int, kernel: str) -> None:
    generator = torch.Generator().manual_seed(rows * 10 + size)
    inputs = torch.randn(rows, size, generator=generator, dtype=torch.float64)
    targets = torch.randn(rows, 2, generator=generator, dtype=torch.float64)
    fitted, left_out, errors = fit_kernel(inputs, targets, [Choice(kernel, 1.0, 0.1)])
    centred = inputs - inputs.mean(0)
    for row in range(rows):
        rest = [i for i in range(rows) if i != row]
        gram = affinity(centred[rest], centred[rest], kernel, fitted.scale)
        solved = torch.linalg.solve(
            gram + 0.1 * torch.eye(rows - 1, dtype=torch.float64), targets[rest]
        )
        again = affinity(centred[[row]], centred[rest], kernel, fitted.scale) @ solved
        assert torch.allclose(left_out[row], again[0], atol=1e-8)
    (error,) = errors.values()
    assert error == pytest.approx(float((targets - left_out).square().mean()))


def test_a_kernel_map_never_moves_faster_than_its_constant() -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(20, 5, generator=generator)
    targets = torch.randn(20, 3, generator=generator)
    for kernel in ("gaussian", "linear"):
        fitted, _, _ = fit_kernel(inputs, targets, [Choice(kernel, 0.5, 1e-3)])
        left, right = torch.randn(2, 400, 5, generator=generator)
        moved = (fitted(left) - fitted(right)).norm(dim=1)
        assert float((moved / (left - right).norm(dim=1)).max()) <= fitted.lipschitz() * (1 + 1e-6)


def test_patch_maps_are_found_and_judged_by_left_out_trajectories() -> None:
    generator = torch.Generator().manual_seed(1)
    planes = torch.randn(24, 2, 6, 6, generator=generator)
    truth = torch.randn(3, 2, 3, 3, generator=generator)
    padded = torch.nn.functional.pad(planes, (1,) * 4, mode="reflect")
    targets = torch.nn.functional.conv2d(padded, truth) + 0.7
    fitted, left_out, errors = fit_local(planes, targets, (1, 3), folds=4, ridges=(1e-9, 1e-2))
    assert (fitted.patch, fitted.ridge) == (3, 1e-9)
    assert torch.allclose(fitted.weight, truth, atol=1e-4)
    assert torch.allclose(fitted.bias, torch.full((3,), 0.7), atol=1e-4)
    for (patch, ridge), error in errors.items():
        _, guess, _ = fit_local(planes, targets, (patch,), folds=4, ridges=(ridge,))
        # the error read off the normal equations is that of the predictions themselves
        assert error == pytest.approx(float((guess - targets).square().mean()), rel=1e-6, abs=1e-9)
    _, guess, _ = fit_local(planes, targets, (1,), folds=4, ridges=(1e-2,))
    others = [i for i in range(24) if i % 4 != 1]
    without, _, _ = fit_local(planes[others], targets[others], (1,), folds=4, ridges=(1e-2,))
    assert torch.allclose(without(planes[1::4]), guess[1::4].float(), atol=1e-5)


@given(st.integers(1, 40), st.sampled_from(["even", "karras", "late0.3", "late1.6", "late9"]))
@settings(max_examples=60, deadline=None)
def test_levels_rise_from_the_start_to_the_end(calls: int, placement: str) -> None:
    rho = torch.logspace(1.2, -2, 41, dtype=torch.float64)
    steps = coarse_steps(rho, calls, placement)
    assert (steps[0], steps[-1], len(steps)) == (0, 40, calls + 1)
    assert all(a < b for a, b in zip(steps[:-1], steps[1:], strict=True))


def test_levels_lie_where_their_name_says() -> None:
    rho = torch.linspace(10, 0, 31, dtype=torch.float64)
    assert coarse_steps(rho, 4) == (0, 8, 15, 22, 30)
    assert coarse_steps(rho, 4, "late1") == (0, 8, 15, 22, 30)
    assert coarse_steps(rho, 4, "late2") == (0, 13, 22, 28, 30)
    strides = torch.tensor(coarse_steps(rho, 6, "karras")).diff()
    assert strides[0] == strides.max()  # rho falls linearly here: Karras steps are long at first


def test_levels_are_chosen_by_the_error_of_left_out_trajectories(
    model: MixtureModel, split: tuple[list[str], list[str]]
) -> None:
    known, queries = split
    noise, recipe = shared(model, 48), Recipe(parts=("local", "kernel"))
    sampler = build_sampler("dpm_solver_pp", model.scheduler_config, STEPS, "trailing")
    fitted: dict[tuple[int, ...], Correction] = {}

    def nothing(latents: Tensor, timestep: Tensor) -> Tensor:
        pytest.fail("every fit answered its own calls")

    def fit_plan(tried: Plan) -> Calls[Correction]:
        placement = names[tried.steps]
        fitted[tried.steps] = fit(model, known[:48], noise, 3, recipe, placement=placement)
        return fitted[tried.steps]
        yield  # a fit is a run of network calls

    plans = {name: plan(sampler, 3, name) for name in ("even", "late0.4", "late3")}
    names = {chosen.steps: name for name, chosen in plans.items()}
    best = drive(best_plan(list(plans.values()), fit_plan), nothing)
    conditioning, start = model.encode(queries), shared(model, len(queries))
    full = run_plain(model, sampler, conditioning, start).latents
    errors = {}
    for steps, correction in fitted.items():
        mine = run_corrected(model, correction, conditioning, start, [0] * len(queries)).latents
        errors[steps] = float(latent_error(mine, full).mean())
    assert len(fitted) == 3 and min(errors, key=lambda steps: errors[steps]) == best.steps
    same = [plans["even"], plan(sampler, 3, "late1")]
    only = drive(best_plan(same, lambda tried: pytest.fail("one")), nothing)
    assert only.steps == plans["even"].steps


def test_levels_are_moved_to_where_the_error_is_least(model: MixtureModel) -> None:
    sampler = build_sampler("ddim", model.scheduler_config, STEPS, "trailing")
    wanted, tried = (0, 3, 11, 29, 40), list[tuple[int, ...]]()

    def fit_plan(one: Plan) -> Calls[Correction]:
        tried.append(one.steps)
        off = sum(abs(a - b) for a, b in zip(one.steps, wanted, strict=True))
        return Correction(one, "ddim", (), torch.tensor([off + 1.0, off + 3.0]))
        yield

    found = drive(refined(plan(sampler, 4), fit_plan, 4), lambda x, t: x)
    assert found.steps == wanted
    assert all(list(steps) == sorted(set(steps)) for steps in tried) and len(tried) < 40


def test_moved_levels_correct_better_than_those_that_they_start_from(
    model: MixtureModel, tmp_path: Path
) -> None:
    some, errors = lab(tmp_path), {}
    for refine in (None, 4):
        recipe = Recipe(parts=("local",), patches=(1,), levels=("even",), refine=refine)
        errors[refine] = float(some.errors(Corrected(3, recipe)).median())  # one run flips
    assert errors[4] < 0.9 * errors[None]


def test_a_saved_correction_computes_the_same(
    model: MixtureModel, split: tuple[list[str], list[str]], tmp_path: Path
) -> None:
    known, queries = split
    fitted = fit(model, known[:40], shared(model, 40), 3, Recipe(parts=("both",)))
    path = correction_path(tmp_path, "0" * 8, 3, Recipe(parts=("both",)))
    assert path != correction_path(tmp_path, "1" * 8, 3, Recipe(parts=("both",)))
    of = {"kb": "0" * 8, "model": "m"}
    save_correction(path, fitted, of)
    again = load_correction(path, fitted.plan.sampler, of)
    assert again.plan.steps == fitted.plan.steps
    noise, conditioning = shared(model, 4), model.encode(queries[:4])
    both = [run_corrected(model, c, conditioning, noise, [0] * 4).latents for c in (fitted, again)]
    assert torch.equal(*both)
    with pytest.raises(UsageError, match="another plan"):
        load_correction(path, build_sampler("ddim", model.scheduler_config, 10, "trailing"), of)
    for field in of:
        with pytest.raises(UsageError, match=f"another {field}"):
            load_correction(path, fitted.plan.sampler, of | {field: "other"})
    other = correction_path(tmp_path, "0" * 8, 4, Recipe(parts=("both",)))
    path.rename(other)
    with pytest.raises(UsageError, match="another name"):  # of other calls, under this name
        load_correction(other, fitted.plan.sampler, of)
    other.rename(path)
    original = path.read_bytes()
    for damaged in (original[:-9], original[:-9] + bytes([original[-9] ^ 1]) + original[-8:]):
        path.write_bytes(damaged)
        with pytest.raises(UsageError, match=f"{path.name}' is damaged"):
            load_correction(path, fitted.plan.sampler, of)
    broken = replace(fitted, predicted_error=torch.tensor([torch.nan]))
    save_correction(path, broken, of)
    with pytest.raises(UsageError, match="predicted_error is not made of finite numbers"):
        load_correction(path, fitted.plan.sampler, of)


def test_what_cannot_be_fitted_is_refused(model: MixtureModel) -> None:
    pndm = build_sampler("pndm", model.scheduler_config, STEPS, None)
    with pytest.raises(UsageError, match="sampler=pndm"):
        plan(pndm, 4)
    sampler = build_sampler("ddim", model.scheduler_config, STEPS, "trailing")
    with pytest.raises(UsageError, match="correction.calls has 41"):
        plan(sampler, 41)
    for field, value, words in (
        ("base", "euler", "correction.base='euler'"),
        ("states", "maybe", "correction.states='maybe'"),
        ("patches", (2,), "odd"),
        ("ridges", (0.0,), "positive"),
        ("folds", 1, "folds=1"),
        ("levels", ("late",), "correction.levels has 'late'"),
        ("levels", (), "empty"),
        ("trials", 1, "trials=1"),
    ):
        with pytest.raises(UsageError, match=words):
            Recipe(**{field: value})
    with pytest.raises(UsageError, match="states=exact"):
        Recipe(states="exact", levels=("even", "late2"))
    with pytest.raises(UsageError, match="correction.features has 'colour'"):
        fit(model, ["a", "b"], shared(model, 2), 2, Recipe(features=("colour",)))


def test_a_fit_to_few_trajectories_says_that_its_forecast_may_be_too_low(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup = lab(tmp_path, steps=6, count=12).setup
    assert "12 trajectories are few" in Corrected(2).report(setup)
    monkeypatch.setattr(method, "_ENOUGH", 12)
    assert Corrected(2).report(setup) is None
