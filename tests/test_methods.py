"""The ReDi run: exact on its own trajectory, honest in its costs, clear in its refusals."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from redi.config import Config
from redi.errors import UsageError
from redi.methods import METHODS, Query, Setup
from redi.methods.memo import Memo
from redi.methods.plain import Full
from redi.methods.redi import ReDi
from redi.methods.solve import Outcome, solve
from redi.metrics.batch import FULL, BatchResult
from redi.metrics.cost import Cost
from redi.metrics.jumped import Jumped
from redi.metrics.latent_error import LatentErrorAtValue, latent_error
from redi.models.mixture import MixtureModel
from redi.models.text_to_image import TextToImageModel
from redi.retrieval import Found
from redi.samplers import SAMPLERS, Answer, Ask, build_sampler, drive
from redi.verbs.assemble import check, noise_from, prompts_from
from redi.verbs.build_kb import build
from redi.verbs.entries import equal_calls, jumping
from redi.verbs.evaluate import setup_of

JUMPS = [name for name, kind in METHODS.items() if issubclass(kind, ReDi)]


def bound(config: Config, model: TextToImageModel, name: str = "redi") -> ReDi:
    setting = check(config)
    kb = build(config, setting, model, lambda _: None)
    return jumping(name, setting, config).bind(setup_of(config, model, kb))


def batch(config: Config, model: TextToImageModel, role: str, count: int = 4):  # type: ignore[no-untyped-def]
    texts, noise = prompts_from(config.data, role, count).texts, noise_from(config)
    ids = [noise.kb_id(i) if role == "kb" else noise.query_id(i) for i in range(count)]
    said, drawn = model.encode(texts), noise.draw(ids, model.latent_shape)
    parts = tuple(noise.partition(i) for i in ids)
    return Query(drawn, parts, tuple(range(count)), said.embedding), said


def full_and_jump(
    redi: ReDi, config: Config, model: TextToImageModel, role: str
) -> tuple[Outcome, Outcome]:
    query, said = batch(config, model, role)
    full = Full().bind(redi.setup)
    watched = solve(full, query, model, said, watch=(redi._value,))
    return watched, solve(redi, query, model, said)


OLDEST = ("ddim", "pndm", "dpm_solver", "dpm_solver_pp")
OTHERS = tuple(name for name, kind in SAMPLERS.items() if name not in OLDEST and not kind.flow)
POLICIES = [(name, p) for name in OLDEST for p in ("shared", "bank", "per_prompt")]


def choose(config: Config, name: str) -> None:
    config.sampler.name = name
    if "timestep_spacing" not in SAMPLERS[name].options:
        config.sampler.timestep_spacing = None


@pytest.mark.parametrize(("name", "policy"), [*POLICIES, *((name, "shared") for name in OTHERS)])
def test_own_trajectory_with_its_history_equals_the_plain_run(
    name: str, policy: str, tiny_config: Config, tiny_model: TextToImageModel
) -> None:
    choose(tiny_config, name)
    tiny_config.noise.policy = policy
    tiny_config.noise.bank_size = 2 if policy == "bank" else 1
    tiny_config.kb.store_history, tiny_config.retrieval.resume = True, "retrieved"
    redi = bound(tiny_config, tiny_model)
    for estimator in ("paper", "transport", "delta"):
        other = replace(redi, estimator=estimator).bind(redi.setup)
        full, jumped = full_and_jump(other, tiny_config, tiny_model, "kb")
        assert jumped.found is not None and jumped.at_value is not None
        assert jumped.found.rows[:, 0].tolist() == [0, 1, 2, 3]
        assert torch.equal(jumped.at_value, full.watched[redi._value])
        assert torch.equal(jumped.latents, full.latents)


# ten steps are too few for Runge-Kutta, and step 7 is inside a group of the single-step solver
@pytest.mark.parametrize("name", [*OLDEST, "unipc", "deis", "euler", "heun"])
def test_calls_are_counted_and_the_baseline_has_as_many(
    name: str, tiny_config: Config, tiny_model: TextToImageModel
) -> None:
    choose(tiny_config, name)
    redi = bound(tiny_config, tiny_model)
    k, v, n = redi._key, redi._value, redi.sampler.num_steps
    expected = redi.sampler.calls(0, k) + redi.sampler.calls(v, n)
    for method in JUMPS:
        jumping_ = bound(tiny_config, tiny_model, method)
        full, jumped = full_and_jump(jumping_, tiny_config, tiny_model, "query")
        assert full.cost.calls == redi.sampler.calls(0, n)
        prefix_only = redi.sampler.calls(0, k)
        wanted = prefix_only if method == "neighbour" else expected
        assert jumped.calls.tolist() == [wanted] * 4
        assert jumped.cost.calls == wanted
    setting = check(tiny_config)
    plain = equal_calls(tiny_config, setting, redi.setup).bind(redi.setup)
    assert plain.sampler.calls(0, plain.sampler.num_steps) == expected


def test_methods_use_the_neighbours_that_they_name(
    tiny_config: Config, tiny_model: TextToImageModel
) -> None:
    found = {}
    for name in JUMPS:
        method = bound(tiny_config, tiny_model, name)
        _, found[name] = full_and_jump(method, tiny_config, tiny_model, "query")
    kb = method.setup.needs_kb("redi")
    query, said = batch(tiny_config, tiny_model, "query")
    predict = tiny_model.predictor(said)
    key = drive(method.sampler.run(method.sampler.initial(query.noise), 2), predict)
    keys = kb.latents(2).flatten(1).double()
    distances = torch.cdist(key.latents.flatten(1).double(), keys)
    nearest = found["redi"].found
    assert nearest is not None
    assert nearest.rows[:, 0].tolist() == distances.argmin(1).tolist()
    by_prompt = torch.cdist(said.embedding.double(), kb.embeddings().double())
    assert found["prompt"].found.rows[:, 0].tolist() == by_prompt.argmin(1).tolist()
    stored = kb.latents(10)[nearest.rows[:, 0]]
    assert torch.equal(found["neighbour"].latents, stored)
    again = solve(bound(tiny_config, tiny_model, "random"), query, tiny_model, said).found
    assert torch.equal(found["random"].found.rows, again.rows)
    assert found["jump"].found is None


def test_an_identical_call_is_made_once_and_counted_by_every_method(
    tiny_config: Config, tiny_model: TextToImageModel
) -> None:
    redi = bound(tiny_config, tiny_model)
    query, said = batch(tiny_config, tiny_model, "query")
    memo, before = Memo(), tiny_model.meter.calls
    full = solve(Full().bind(redi.setup), query, tiny_model, said, memo=memo)
    jumped = solve(redi, query, tiny_model, said, memo=memo)
    assert full.cost.calls == 10 and jumped.cost.calls == 5
    assert tiny_model.meter.calls - before == 4 * (10 + 5 - 2)  # the prefix of two is shared
    alone = solve(redi, query, tiny_model, said)
    assert torch.equal(alone.latents, jumped.latents)


def test_a_hit_and_a_miss_of_one_batch_part_ways(
    tiny_config: Config, tiny_model: TextToImageModel
) -> None:
    redi = bound(tiny_config, tiny_model)
    query, said = batch(tiny_config, tiny_model, "query")
    full, jumped = full_and_jump(redi, tiny_config, tiny_model, "query")
    distances = jumped.found.distances[:, 0]
    between = float(distances.sort().values[1:3].mean())
    some = replace(redi, max_distance=between).bind(redi.setup)
    outcome = solve(some, query, tiny_model, said)
    hits = distances <= between
    assert outcome.notes.hits.tolist() == hits.tolist() and 0 < hits.sum() < 4
    assert torch.equal(outcome.latents[hits], jumped.latents[hits])
    assert torch.equal(outcome.latents[~hits], full.latents[~hits])
    assert outcome.calls.tolist() == [5 if hit else 10 for hit in hits.tolist()]
    # what metrics make of it: a sample that does not jump errs by nothing at the value step
    outcomes = {FULL: full, "redi": outcome}
    result = BatchResult([0, 1, 2, 3], [""] * 4, None, outcomes, {}, redi._value)
    measured = LatentErrorAtValue(tiny_config, {}).values(result, "redi")
    assert measured is not None
    true = full.watched[redi._value]
    assert measured[~hits].tolist() == [0.0] * int((~hits).sum())
    assert torch.equal(torch.tensor(measured)[hits], latent_error(jumped.at_value, true)[hits])
    told = Jumped(tiny_config, {}).values(result, "redi")
    assert told is not None and told.tolist() == hits.double().tolist()
    costs = Cost(tiny_config, {}).measure(result)["redi"]
    assert costs["calls"].tolist() == outcome.calls.tolist()
    # a distance that is no number is a miss
    found = Found(jumped.found.rows, torch.full_like(jumped.found.distances, torch.nan))
    assert not redi.near(jumped, found).any()  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["pndm", "heun", "unipc", "dpm_solver_pp", "pndm_prk"])
def test_parts_of_a_batch_share_a_sampler_in_any_order(
    name: str, tiny_config: Config, tiny_model: TextToImageModel
) -> None:
    """Runs that take turns give what each gives alone, also between the calls of one update."""
    choose(tiny_config, name)
    tiny_config.kb.key_step = 3
    redi = bound(tiny_config, tiny_model)
    query, said = batch(tiny_config, tiny_model, "query")
    full, jumped = full_and_jump(redi, tiny_config, tiny_model, "query")
    between = float(jumped.found.distances[:, 0].sort().values[1:3].mean())
    outcome = solve(replace(redi, max_distance=between).bind(redi.setup), query, tiny_model, said)
    hits = outcome.notes.hits
    assert torch.equal(outcome.latents[hits], jumped.latents[hits])
    assert torch.equal(outcome.latents[~hits], full.latents[~hits])
    runs = [redi.sampler.run(redi.sampler.initial(query.noise)) for _ in range(2)]
    predict, asks = tiny_model.predictor(said), [next(run) for run in runs]
    ends = []
    while len(ends) < 2:
        for i, run in enumerate(runs):
            try:
                ask: Ask = asks[i]
                asks[i] = run.send(Answer(ask.latents, predict(ask.input, ask.timestep)))
            except StopIteration as end:
                ends.append(end.value.latents)
    assert torch.equal(ends[0], full.latents) and torch.equal(ends[1], full.latents)


def test_the_calibrated_distance_keeps_its_promise_on_the_kb(
    tiny_config: Config, tiny_model: TextToImageModel
) -> None:
    tiny_config.kb.size = 24
    redi = bound(tiny_config, tiny_model)
    kb, rows = redi.setup.needs_kb("redi"), torch.arange(24)
    found = redi.search.search(kb.latents(2, rows), [0] * 24, 2)
    others = Found(found.rows[:, 1:], found.distances[:, 1:])
    errors = redi.landing.left_out(rows, others)
    tolerance = float(errors.median())
    strict = replace(redi, tolerance=tolerance, risk=0.2).bind(redi.setup)
    near = others.distances[:, 0] <= strict.threshold
    assert 0 < strict.threshold < float("inf")
    assert int((near & (errors > tolerance)).sum()) < 0.2 * 25
    # a promise that cannot be kept lets nothing jump
    never = replace(redi, tolerance=1e-9, risk=0.01).bind(redi.setup)
    assert never.threshold == -float("inf")


def test_queries_of_a_bank_search_their_own_noise(
    tiny_config: Config, tiny_model: TextToImageModel
) -> None:
    tiny_config.noise.policy, tiny_config.noise.bank_size = "bank", 2
    redi = bound(tiny_config, tiny_model)
    _, jumped = full_and_jump(redi, tiny_config, tiny_model, "query")
    assert jumped.found is not None
    assert (jumped.found.rows[:, 0].numpy() % 2 == np.array([0, 1, 0, 1])).all()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"key_step": 5, "value_step": 5}, "kb.key_step=5 must come before"),
        ({"key_step": 2, "value_step": 11}, "retrieval.value_step=11 is past sampling.steps=10"),
        ({"key_step": 0, "value_step": 5}, "kb.key_step=0"),
        ({"key_step": 2, "value_step": 5, "neighbours": 0}, "retrieval.neighbours=0"),
        ({"key_step": 2, "value_step": 5, "estimator": "magic"}, "paper, transport, delta"),
        ({"key_step": 2, "value_step": 5, "weights": "magic"}, "least_squares"),
        ({"key_step": 2, "value_step": 5, "resume": "magic"}, "rewarm"),
    ],
)
def test_impossible_settings_are_named(changes: dict, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        setting = ReDi(**changes)
        setting.check(setting.key_step, setting.value_step, 10)


def test_a_value_step_that_the_sampler_cannot_start_from_is_refused_before_the_kb_is_built(
    tiny_config: Config, tiny_model: TextToImageModel
) -> None:
    choose(tiny_config, "dpm_solver_single")
    with pytest.raises(UsageError, match="value_step=7 .*use 6 or 8"):
        bound(tiny_config, tiny_model)
    assert not Path(tiny_config.kb.root).exists()


def test_history_that_was_not_stored_is_refused(
    tiny_config: Config, tiny_model: TextToImageModel
) -> None:
    tiny_config.sampler.name, tiny_config.retrieval.resume = "pndm", "retrieved"
    with pytest.raises(UsageError, match="kb.store_history=true"):
        bound(tiny_config, tiny_model)


def test_a_kb_of_another_model_is_refused(
    tiny_config: Config, tiny_model: TextToImageModel, tmp_path: Path
) -> None:
    tiny_config.kb.dir = str(tmp_path / "mine")
    bound(tiny_config, tiny_model)
    other = TextToImageModel(tiny_model.pipeline, guidance_scale=3.0, batch_size=4)
    with pytest.raises(UsageError, match="guidance_scale: KB has 2.5, this run 3.0"):
        bound(tiny_config, other)


def test_the_method_in_the_guide_for_contributors_works() -> None:
    guide = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text()
    code = guide.split("```python\n")[1].split("```")[0]
    model = MixtureModel(components=5, spread=0.7, deviation=0.4)
    sampler = build_sampler("ddim", model.scheduler_config, 10, "trailing")
    noise = torch.randn(2, *model.latent_shape, generator=torch.Generator().manual_seed(0))
    query, said = Query(noise, (0, 0), (0, 1)), model.encode(model.prompts(1)[:2])
    try:
        exec(code, {"__name__": __name__})
        method = METHODS["every_other"]().bind(Setup(sampler))
        few = solve(method, query, model, said)
    finally:
        METHODS.pop("every_other", None)
    full = solve(Full().bind(Setup(sampler)), query, model, said)
    assert few.calls.tolist() == [6, 6] and full.calls.tolist() == [10, 10]
    assert float((few.latents - full.latents).norm() / full.latents.norm()) < 0.1
