"""The theory checked in numbers: coefficients, certificate, constants, order, calibration."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from redi.data.noise import NoisePolicy
from redi.data.pixels import to_tensor
from redi.embedded.captions import sample, say_all
from redi.errors import UsageError
from redi.methods.conformal import breaking_points, calibrate, choose, evaluate_skip, failures
from redi.methods.corrected import Recipe
from redi.metrics.evaluator import EMBEDDED_EVALUATOR, Evaluator
from redi.metrics.psnr import psnr
from redi.models.mixture import SCHEDULE, MixtureModel
from redi.retrieval import ESTIMATORS, WEIGHTS
from redi.samplers import build_sampler
from redi.theory.blocks import certificate_block, known_eta
from redi.theory.bounds import FORMS, certified_error, estimate_constants, retrieval_bound
from redi.theory.certificate import (
    TOLERANCE,
    certificate,
    check,
    gronwall,
    known_constant,
    propagate,
    step_map_certificate,
)
from redi.theory.config import TheoryConfig
from redi.theory.corrected import base_coefficients, corrected_bound
from redi.theory.corrected_block import corrected_block
from redi.theory.correlation import correlation
from redi.theory.displacement import pair_bounds
from redi.theory.jump import Keys
from redi.theory.losses import picture_losses
from redi.theory.multistep import multistep
from redi.theory.neighbours import nearest
from redi.theory.observe import observe
from redi.theory.order import convergence_order
from redi.theory.study import run_study

SAMPLERS = ("ddim", "pndm", "dpm_solver", "dpm_solver_pp")
CONFIG = TheoryConfig(value_steps=(6, 10, 16), neighbours=4, order_steps=(50, 100))


@pytest.fixture(scope="module")
def model():
    return MixtureModel()


@pytest.fixture(scope="module")
def prompts(model):
    names = model.prompts()
    order = torch.randperm(len(names), generator=torch.Generator().manual_seed(3)).tolist()
    return [names[i] for i in order]


@pytest.fixture(scope="module")
def seen(model, prompts):
    return {name: observe(model, name, prompts[:60], prompts[60:260], CONFIG) for name in SAMPLERS}


# -- coefficients ----------------------------------------------------------------------------


def replay(sampler, state, predict, updates):
    """Largest relative difference between the sampler's updates and the multistep form."""
    alpha, worst = sampler.levels.alpha, 0.0
    past = list(reversed([h.double() for h in state.history]))
    for update, record in zip(updates, sampler.records(state, predict), strict=True):
        y = state.latents.double() / alpha[state.step]
        past.insert(0, update.prediction(y, record.predictions[0]))
        second = record.predictions[1].double() if len(record.predictions) > 1 else None
        expected = update.apply(y, past, second)
        state = record.state
        got = state.latents.double() / alpha[state.step]
        worst = max(worst, float((got - expected).norm() / expected.norm()))
    return worst


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("spacing", ["trailing", "leading"])
@pytest.mark.parametrize("steps", [8, 20, 50])
def test_coefficients_reproduce_the_samplers_updates(model, name, spacing, steps):
    sampler = build_sampler(name, SCHEDULE, steps, spacing)
    predict = model.predictor(model.encode(["a b", "c"]))
    noise = NoisePolicy().draw([0, 1], model.latent_shape).double()
    assert replay(sampler, sampler.initial(noise), predict, multistep(sampler)) < 1e-6


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("policy", ["rewarm", "retrieved"])
def test_coefficients_reproduce_resumed_runs(model, name, policy):
    sampler = build_sampler(name, SCHEDULE, 20, "trailing")
    predict = model.predictor(model.encode(["a b", "c"]))
    noise = NoisePolicy().draw([0, 1], model.latent_shape).double()
    state = sampler.finish(sampler.initial(noise), predict, stop=9)
    history = state.history if policy == "retrieved" else ()
    resumed = sampler.resume(9, state.latents, policy, history)
    assert replay(sampler, resumed, predict, multistep(sampler, 9, len(history))) < 1e-6


def test_weights_sum_to_one_and_data_form_contracts():
    for name in SAMPLERS:
        for update in multistep(build_sampler(name, SCHEDULE, 20, "trailing")):
            assert math.isclose(sum(update.weights) + update.second_call, 1, abs_tol=1e-12)
            assert 0 <= update.carry <= 1
    last = multistep(build_sampler("dpm_solver_pp", SCHEDULE, 20, "trailing"))[-1]
    assert last.carry == 0 and last.weights == (1.0,)


def test_grids_with_different_call_levels_are_refused():
    with pytest.raises(UsageError, match="timestep_spacing='linspace'"):
        multistep(build_sampler("ddim", SCHEDULE, 20, "linspace"))
    with pytest.raises(UsageError, match="clip_sample"):
        multistep(build_sampler("ddim", {**SCHEDULE, "clip_sample": True}, 20, "trailing"))


# -- certificate -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", SAMPLERS)
def test_certificate_is_never_violated(seen, name):
    for record in (seen[name].pairs, seen[name].random_pairs):
        verdict = check(record)
        assert not verdict.violated.any()
        assert 0.05 < verdict.ratio.max() <= 1
        assert (record.residual <= TOLERANCE * record.move).all()  # without any rounding allowance
    assert len(seen[name].pairs.query) == 240


@pytest.mark.parametrize("name", SAMPLERS)
def test_one_percent_in_one_coefficient_is_caught(seen, name):
    block = certificate_block(seen[name], CONFIG.perturbation)
    assert block["violations"] == 0
    assert {"gain", "b0"} <= set(block["perturbed_violations"])
    assert min(block["perturbed_violations"].values()) > 0.9 * block["pairs"]
    assert block["perturbed_violations"]["b0"] == block["pairs"]


@pytest.mark.parametrize("name", SAMPLERS)
def test_controls_break_what_they_should(seen, name):
    pairs = seen[name].pairs
    assert check(seen[name].swapped_pairs).split.all()
    forgotten = replace(pairs, mismatch=torch.zeros_like(pairs.mismatch))
    assert check(forgotten).bound.float().mean() > 0.5
    assert check(replace(pairs, growth=0.97 * pairs.growth)).bound.float().mean() > 0.9
    near, far = pairs.distance[-1].median(), seen[name].random_pairs.distance[-1].median()
    assert far > 3 * near
    assert certificate(seen[name].random_pairs)[-1].median() > certificate(pairs)[-1].median()


@pytest.mark.parametrize("name", SAMPLERS)
def test_step_map_form_is_sharper(seen, name):
    pairs = seen[name].pairs
    sharp, plain = step_map_certificate(pairs)[-1], certificate(pairs)[-1]
    assert (sharp / pairs.distance[-1]).median() < 1.1
    assert (sharp < plain).all()


def test_ddim_recursion_equals_its_closed_form(seen):
    pairs = seen["ddim"].pairs
    n, total = len(pairs.updates), None
    factors = [1 + abs(u.gain) * pairs.secant[i] * u.alpha for i, u in enumerate(pairs.updates)]
    total = pairs.distance[0] * math.prod(factors)
    for i, update in enumerate(pairs.updates):
        rest = math.prod(factors[i + 1 :]) if i + 1 < n else 1.0
        total = total + abs(update.gain) * pairs.mismatch[i] * rest
    recursion = propagate(pairs.updates, pairs.distance[0], [], pairs.secant, pairs.mismatch)
    torch.testing.assert_close(recursion[-1], total, rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", SAMPLERS)
def test_known_constant_bounds_hold(model, seen, name):
    pairs = seen[name].pairs
    eta = known_eta(model, seen[name])
    assert (pairs.secant <= eta).all()
    assert (pairs.distance <= known_constant(pairs, eta) * (1 + TOLERANCE)).all()
    closed = gronwall(pairs, seen[name].sampler, eta.amax(0))
    assert (known_constant(pairs, eta) <= closed * (1 + 1e-9)).all()
    assert (pairs.secant > 0.4 * eta).any()  # a constant of 40% would be wrong


def test_batches_do_not_change_the_record(model, prompts):
    small = replace(CONFIG, batch_size=7)
    one = observe(model, "pndm", prompts[:12], prompts[60:90], CONFIG).pairs
    two = observe(model, "pndm", prompts[:12], prompts[60:90], small).pairs
    torch.testing.assert_close(one.distance, two.distance, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(one.mismatch, two.mismatch, rtol=1e-6, atol=1e-9)


def test_float32_models_pass_as_well(prompts):
    model = MixtureModel(dtype=torch.float32)
    for name in SAMPLERS:
        found = observe(model, name, prompts[:20], prompts[60:160], CONFIG)
        assert not check(found.pairs).violated.any()


# -- jump ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize(
    ("resume", "weights"), [("rewarm", "affine"), ("retrieved", "least_squares")]
)
def test_final_error_stays_within_the_certified_bound(model, prompts, name, resume, weights):
    config = replace(CONFIG, resume=resume, weights=weights)
    found = observe(model, name, prompts[:20], prompts[60:160], config)
    assert set(found.by_estimator) == set(ESTIMATORS)
    for jump in (jump for jumps in found.by_estimator.values() for jump in jumps.values()):
        for form in FORMS:
            bound = certified_error(found.pairs, jump, form)
            assert (jump.final_alpha * jump.distance[-1] <= bound * (1 + TOLERANCE)).all()
        assert (jump.relative_error > 1e-4).any()
        limit = model.decoder_lipschitz * jump.final_alpha * jump.distance[-1]
        assert (jump.picture_error <= limit * (1 + 1e-4)).all()


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("estimator", ["transport", "delta"])
def test_what_an_estimator_borrows_is_bounded_and_the_check_can_fail(seen, name, estimator):
    pairs = seen[name].pairs
    for v, jump in seen[name].by_estimator[estimator].items():
        error = jump.distance[0]  # at the value step

        def bound(record, form, jump=jump, v=v):
            found = pair_bounds(record, estimator, form)[v - CONFIG.key_step]
            return retrieval_bound(
                jump.weights, found.reshape(jump.weights.shape), jump.borrowed_norm
            )

        for form in FORMS:
            assert (error <= bound(pairs, form) * (1 + TOLERANCE)).all()
        series = {"transport": "drift", "delta": "bend"}[estimator]
        short = replace(pairs, **{series: 0.3 * getattr(pairs, series)})
        assert (error > bound(short, "step_map")).any()
        if pairs.updates[0].data_form:
            continue  # what is left of its bound, the distances, is enough here
        # neither the mismatches nor the predictions before the key step may be forgotten
        alike = replace(
            pairs, mismatch=0 * pairs.mismatch, secant=0 * pairs.secant, key_gap=0 * pairs.key_gap
        )
        history = tuple(0 * gap for gap in pairs.history_gaps)
        assert (error > bound(replace(alike, history_gaps=history), "lipschitz")).any()


def test_weights_and_estimates_are_those_of_runs():
    """The affine ridge, for one, is the one that runs have."""
    sampler = build_sampler("ddim", SCHEDULE, 20, "trailing")
    rho = sampler.levels.rho

    class Standing:
        """As much of a fleet as the key step needs."""

        def __init__(self, rows, seed):
            draw = torch.Generator().manual_seed(seed)
            self.y, self.last = torch.randn(2, rows, 2, 3, 3, generator=draw).double()
            self.sampler, self.state = sampler, sampler.initial(self.y)

        def batches(self):
            return [(slice(0, 3), None), (slice(3, 5), None)]

    queries, entries, values = Standing(5, 0), Standing(9, 1), Standing(9, 2).y
    rows = torch.stack([torch.randperm(9)[:4] for _ in range(5)])
    for rule, function in WEIGHTS.items():
        keys = Keys(queries, entries, rows, rule)
        wanted = function(queries.y.flatten(1), entries.y[rows].flatten(2))
        assert torch.allclose(keys.weights, wanted, rtol=1e-12)
    stride, w = float(rho[8] - rho[0]), keys.weights[:, :, None, None, None]
    moved = (w * (values[rows] - entries.y[rows])).sum(1)
    bent = moved - stride * (w * entries.last[rows]).sum(1)
    for estimator, wanted, borrowed in (
        ("paper", (w * values[rows]).sum(1), values[:5]),
        ("transport", queries.y + moved, values[:5] - queries.y),
        (
            "delta",
            queries.y + stride * queries.last + bent,
            values[:5] - queries.y - stride * queries.last,
        ),
    ):
        assert torch.allclose(keys.estimates(estimator, values, float(rho[8])), wanted)
        assert torch.allclose(keys.borrowed(estimator, values[:5], float(rho[8])), borrowed)


@pytest.mark.parametrize("name", SAMPLERS)
def test_own_trajectory_is_exact_with_carried_history(model, prompts, name):
    config = replace(CONFIG, neighbours=1, resume="retrieved")
    found = observe(model, name, prompts[:10], prompts[:10], config)
    for jump in (jump for jumps in found.by_estimator.values() for jump in jumps.values()):
        assert jump.relative_error.max() < 1e-6
        assert jump.history_term.max() < 1e-5


def test_history_term_is_what_rewarming_costs(seen):
    for name in SAMPLERS:
        jump = seen[name].jumps[10]
        affected = jump.history_term.amax(1) > 1e-9
        expected = seen[name].sampler.history_size
        assert affected.tolist() == [i < expected for i in range(len(affected))]


def test_retrieval_bound_in_numbers():
    weights = torch.tensor([[0.5, -0.25], [1.0, 0.0]], dtype=torch.float64)
    bounds = torch.tensor([[2.0, 4.0], [3.0, 9.0]], dtype=torch.float64)
    norm = torch.tensor([10.0, 10.0], dtype=torch.float64)
    assert retrieval_bound(weights, bounds, norm).tolist() == [2.0 + 7.5, 3.0]


def test_nearest_has_no_cancellation():
    base = 1000 + torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(0)).double()
    distances, rows = nearest(base[2:3] + 1e-9, base, 2)
    assert rows[0, 0] == 2
    assert math.isclose(float(distances[0, 0]), 8e-9, rel_tol=1e-3)


@pytest.mark.parametrize("form", FORMS)
def test_plug_in_with_the_largest_constants_covers_its_own_calibration(seen, form):
    found = seen["dpm_solver_pp"]
    everyone = torch.ones(60, dtype=torch.bool)
    plug_in = estimate_constants(found.pairs, found.jumps, everyone, 1.0)
    for v, jump in found.jumps.items():
        bound = plug_in.error(found.pairs, jump, form)
        assert (jump.final_alpha * jump.distance[-1] <= bound * (1 + TOLERANCE)).all(), v
        picture = plug_in.picture_error(found.pairs, jump, form)
        assert (jump.picture_error <= picture * (1 + TOLERANCE)).all()


# -- order, calibration, summary -------------------------------------------------------------


@pytest.mark.parametrize("name", SAMPLERS)
def test_convergence_order(name):
    expected = 1 if name == "ddim" else 2
    # on finer grids PNDM errs by 1e-6, as much as the float32 noise schedule is rounded by, and
    # processors round it differently
    assert abs(convergence_order(name, (50, 100, 125)).slope - expected) < 0.15


def test_breaking_points_by_hand():
    scores = torch.tensor([[1.0, 3.0, 2.0], [1.0, 2.0, 3.0], [5.0, 1.0, 1.0]]).double()
    errors = torch.tensor([[0.0, 0.0, 9.0], [0.0, 0.0, 0.0], [9.0, 0.0, 0.0]]).double()
    assert breaking_points(scores, errors, 1.0).tolist() == [3.0, math.inf, 5.0]
    assert choose(scores, 3.5).tolist() == [3, 3, 0]
    assert choose(scores, 3.0).tolist() == [1, 2, 0]
    assert failures(torch.tensor([3, 3, 1]), errors, 1.0).tolist() == [True, False, True]


def test_calibration_rank():
    points = torch.arange(1.0, 20.0).double()  # 19 queries: r = floor(0.1 * 20) = 2
    assert calibrate(points, 0.1) == 2.0
    assert calibrate(points, 0.04) == -math.inf
    assert calibrate(points, 1.0) == math.inf


@pytest.mark.parametrize("informative", [True, False])
@pytest.mark.parametrize("level", [0.05, 0.1, 0.2])
def test_failures_stay_within_the_level_on_exchangeable_data(informative, level):
    """Fresh data in every round: 400 rounds of 99 calibration and 50 test queries."""
    generator = torch.Generator().manual_seed(11)
    rates, rounds, size = [], 400, 50
    for _ in range(rounds):
        errors = torch.rand(149, 4, generator=generator).double().cumsum(1)
        noise = torch.rand(149, 4, generator=generator).double()
        scores = errors + 0.3 * noise if informative else noise
        points = breaking_points(scores[:99], errors[:99], 1.2)
        chosen = choose(scores[99:], calibrate(points, level))
        rates.append(float(failures(chosen, errors[99:], 1.2).double().mean()))
    mean = sum(rates) / rounds
    error = math.sqrt(level * (1 - level) * (1 / size + 1 / 99) / rounds)
    assert mean <= level + 3 * error
    if informative:
        assert mean > 0.5 * level


def test_adaptive_skip_beats_one_step_for_all_when_the_score_informs():
    generator = torch.Generator().manual_seed(5)
    hardness = torch.rand(200, 1, generator=generator).double()
    errors = hardness * torch.tensor([[1.0, 2.0, 3.0, 4.0]], dtype=torch.float64)
    savings = torch.tensor([2, 4, 6, 8])
    flat = torch.tensor([[1.0, 2.0, 3.0, 4.0]], dtype=torch.float64).expand(200, 4)
    found = evaluate_skip(errors, flat, errors, savings, 1.5, 0.1, 50, 0)
    assert found.achieved <= 0.12
    assert found.calls_saved > found.calls_saved_fixed + 1


def test_correlation_in_numbers():
    x = torch.tensor([1.0, 2.0, 3.0, 4.0])
    assert correlation(x, x.exp())["spearman"] == pytest.approx(1)
    assert correlation(x, -x)["pearson"] == pytest.approx(-1)
    assert correlation(x, torch.ones(4))["spearman"] is None


# -- study -----------------------------------------------------------------------------------


def test_study_is_plain_json_with_figures(model, prompts, tmp_path):
    lines: list[str] = []
    block = run_study(
        model, ["ddim"], prompts[:40], prompts[60:160], CONFIG, lines.append, tmp_path
    )
    json.dumps(block, allow_nan=False)
    assert block["certificate"]["ddim"]["pairs"] == 160
    assert block["certificate"]["ddim"]["violations"] == 0
    assert block["known_constant"]["ddim"]["gronwall_violations"] == 0
    assert sum(block["certificate"]["ddim"]["jump_violations"].values()) == 0
    for rows in block["estimators"]["ddim"].values():
        assert sum(row["violations"] for row in rows.values()) == 0
    rows = block["plug_in"]["ddim"]["10"]["bounds"]
    assert {row["form"] for row in rows} == set(FORMS)
    assert set(block["conformal"]["ddim"]["scores"]) == {"key_distance", "fit_residual", "plug_in"}
    assert len(list(tmp_path.glob("*.png"))) == 7 and "0 violations" in lines[0]


def distance_of_pictures(full, jumped, rows):
    assert len(rows) == len(full)
    return (full.double() - jumped.double()).flatten(1).norm(dim=1)


def test_losses_follow_their_own_query(model, prompts):
    """A loss that is the distance of pictures, in batches of 7 of 20."""
    config = replace(CONFIG, batch_size=7)
    losses = {"distance": distance_of_pictures}
    found = observe(model, "pndm", prompts[:20], prompts[60:160], config, losses)
    for jumps in found.by_estimator.values():
        for jump in jumps.values():
            assert torch.allclose(jump.losses["distance"], jump.picture_error, rtol=1e-12)


def test_study_correlates_with_what_pictures_lose(model, prompts):
    config = replace(CONFIG, value_steps=(10,), correction_calls=())
    losses = {
        "distance": distance_of_pictures,
        "nothing": lambda full, jumped, rows: full[:, 0, 0, 0] * 0,
    }
    block = run_study(model, ["pndm"], prompts[:40], prompts[60:160], config, losses=losses)
    found = block["plug_in"]["pndm"]["10"]["picture_correlation"]
    assert found["distance"]["final_error"]["spearman"] > 0.8
    assert set(found["distance"]) > set(block["plug_in"]["pndm"]["10"]["correlation"])
    assert found["nothing"]["key_distance"] == {"spearman": None, "pearson": None}


def test_losses_of_pictures_are_those_of_the_metrics():
    drawn = [sample("query", index, seed=3) for index in range(4)]
    full = to_tensor(np.stack([scene.render(rng) for scene, rng in drawn]))
    prompts = [say_all(scene).caption() for scene, _ in drawn]
    judge = Evaluator.load(EMBEDDED_EVALUATOR)
    losses = picture_losses(64, judge)
    assert set(losses) == {"psnr", "ssim", "clip_score"}
    other = full.flip(0)
    assert torch.equal(losses["psnr"](full, other, prompts), -psnr(full, other))
    assert losses["ssim"](full, full, prompts) == pytest.approx(torch.zeros(4), abs=1e-12)
    wrong = losses["clip_score"](full, other, prompts)
    assert (wrong > 5).all() and (losses["clip_score"](full, full, prompts) == 0).all()
    assert set(picture_losses(64)) == set(picture_losses(512, judge)) == {"psnr", "ssim"}
    assert set(picture_losses(8, judge)) == {"psnr"}  # SSIM's window has 11 pixels


def test_study_refuses_what_it_cannot_check(model, prompts):
    with pytest.raises(UsageError, match="at least 10 query prompts"):
        run_study(model, ["ddim"], prompts[:5], prompts[60:80], CONFIG)
    with pytest.raises(UsageError, match="both a query and in the KB"):
        run_study(model, ["ddim"], prompts[:20], prompts[10:80], CONFIG)
    with pytest.raises(UsageError, match="theory.samplers='eule'"):
        run_study(model, ["eule"], prompts[:20], prompts[60:80], CONFIG)
    with pytest.raises(UsageError, match="theory.neighbours=4"):
        run_study(model, ["ddim"], prompts[:20], prompts[60:62], CONFIG)


@pytest.mark.parametrize(
    "wrong",
    [
        {"key_step": 0},
        {"value_steps": (4, 8)},
        {"value_steps": (8, 6)},
        {"value_steps": (8, 21)},
        {"weights": "simplex"},
        {"resume": "legacy"},
        {"order_steps": (30, 40)},
        {"quantiles": (1.5,)},
        {"splits": 0},
    ],
)
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(UsageError, match="theory\\."):
        TheoryConfig(**wrong)


# -- retrieval-corrected sampling ------------------------------------------------------------


@pytest.mark.parametrize("base", ["ddim", "dpm_solver_pp", "pndm", "unipc"])
def test_the_recursion_bounds_every_corrected_run(model, prompts, base, monkeypatch):
    monkeypatch.setattr("redi.theory.corrected_block.Recipe", lambda: Recipe(base=base))
    config = replace(CONFIG, correction_calls=(2, 5))
    block, records = corrected_block(model, prompts[:24], prompts[24:84], config)
    for found in block.values():
        assert found["queries"] == 24
        assert found["violations"] == found["violations_known_regression_constant"] == 0
        assert found["regression_constant_violations"] == 0
        assert found["violations_without_tau"] == 24  # without its source the bound is 0
        assert found["tightness_median"] >= 1
        assert 0.4 < found["predicted_median"] / found["relative_error_median"] < 2.5
    for record in records.values():
        assert float(record.error[0].max()) == 0
        weaker = replace(record, tau=0.4 * record.tau)
        assert bool((record.error > corrected_bound(weaker)).any())


def test_base_coefficients_are_those_of_the_update(model, prompts):
    _, records = corrected_block(
        model, prompts[:2], prompts[24:30], replace(CONFIG, correction_calls=(4,))
    )
    plan = records[4].correction.plan
    for level in range(4):
        stride = float(plan.rho[level + 1] - plan.rho[level])
        found = base_coefficients(records[4].correction, level)
        assert found[level] == pytest.approx((1.0, abs(stride)))
        assert all(found[j] == (0.0, 0.0) for j in range(level))
