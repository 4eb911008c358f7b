"""The ReDi run: exact on its own trajectory, honest in its costs, clear in its refusals."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from redi.config import Config
from redi.errors import UsageError
from redi.inference import JUMPS, ReDi, Setting, run_plain
from redi.models.text_to_image import TextToImageModel
from redi.samplers import SAMPLERS
from redi.verbs.assemble import check, noise_from, prompts_from, sampler_from
from redi.verbs.build_kb import build
from redi.verbs.evaluate import equal_calls


def redi_of(config: Config, model: TextToImageModel) -> ReDi:
    setting = check(config)
    kb = build(config, setting, model, lambda _: None)
    partitions = kb.noise_ids * (config.noise.policy == "bank")
    return ReDi(model, sampler_from(config, model), kb, partitions, setting)


def full_and_jump(redi: ReDi, config: Config, role: str, method: str = "redi"):  # type: ignore[no-untyped-def]
    texts, noise = prompts_from(config.data, role, 4).texts, noise_from(config)
    ids = [noise.kb_id(i) if role == "kb" else noise.query_id(i) for i in range(4)]
    conditioning = redi.model.encode(texts)
    drawn = noise.draw(ids, redi.model.latent_shape)
    full = run_plain(redi.model, redi.sampler, conditioning, drawn, (redi.setting.value_step,))
    prefix = redi.start(conditioning, drawn, [noise.partition(i) for i in ids], list(range(4)))
    return full, redi.finish(prefix, method)


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
    redi = redi_of(tiny_config, tiny_model)
    for estimator in ("paper", "transport", "delta"):
        redi.setting = replace(redi.setting, estimator=estimator)
        full, jumped = full_and_jump(redi, tiny_config, "kb")
        assert jumped.found is not None and jumped.at_value is not None
        assert jumped.found.rows[:, 0].tolist() == [0, 1, 2, 3]
        assert torch.equal(jumped.at_value, full.watched[redi.setting.value_step])
        assert torch.equal(jumped.latents, full.latents)


# ten steps are too few for Runge-Kutta, and step 7 is inside a group of the single-step solver
@pytest.mark.parametrize("name", [*OLDEST, "unipc", "deis", "euler", "heun"])
def test_calls_are_counted_and_the_baseline_has_as_many(
    name: str, tiny_config: Config, tiny_model: TextToImageModel
) -> None:
    choose(tiny_config, name)
    redi = redi_of(tiny_config, tiny_model)
    k, v, n = redi.setting.key_step, redi.setting.value_step, redi.sampler.num_steps
    expected = redi.sampler.calls(0, k) + redi.sampler.calls(v, n)
    for method in JUMPS:
        full, jumped = full_and_jump(redi, tiny_config, "query", method)
        assert full.cost.calls == redi.sampler.calls(0, n)
        prefix_only = redi.sampler.calls(0, k)
        assert jumped.cost.calls == (prefix_only if method == "neighbour" else expected)
    plain = equal_calls(tiny_config, tiny_model, expected)
    assert plain.calls(0, plain.num_steps) == expected


def test_methods_use_the_neighbours_that_they_name(
    tiny_config: Config, tiny_model: TextToImageModel
) -> None:
    redi = redi_of(tiny_config, tiny_model)
    full, jumped = full_and_jump(redi, tiny_config, "query")
    keys = redi.kb.column("step_0002", "latents").flatten(1).double()
    noise = noise_from(tiny_config).draw([0] * 4, tiny_model.latent_shape)
    conditioning = tiny_model.encode(prompts_from(tiny_config.data, "query", 4).texts)
    prefix = redi.start(conditioning, noise, [0] * 4, list(range(4)))
    distances = torch.cdist(prefix.state.latents.flatten(1).double(), keys)
    assert jumped.found is not None
    assert jumped.found.rows[:, 0].tolist() == distances.argmin(1).tolist()
    by_prompt = torch.cdist(
        conditioning.embedding.double(), redi.kb.column("prompt", "embedding").double()
    )
    assert redi.find(prefix, "prompt").rows[:, 0].tolist() == by_prompt.argmin(1).tolist()
    image = redi.finish(prefix, "neighbour").latents
    stored = redi.kb.column("step_0010", "latents")[jumped.found.rows[:, 0]]
    assert torch.equal(image, stored)
    again = redi.find(prefix, "random").rows
    assert torch.equal(again, redi.find(prefix, "random").rows)


def test_queries_of_a_bank_search_their_own_noise(
    tiny_config: Config, tiny_model: TextToImageModel
) -> None:
    tiny_config.noise.policy, tiny_config.noise.bank_size = "bank", 2
    redi = redi_of(tiny_config, tiny_model)
    _, jumped = full_and_jump(redi, tiny_config, "query")
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
        Setting(**changes).check(10)


def test_a_value_step_that_the_sampler_cannot_start_from_is_refused_before_the_kb_is_built(
    tiny_config: Config, tiny_model: TextToImageModel
) -> None:
    choose(tiny_config, "dpm_solver_single")
    with pytest.raises(UsageError, match="value_step=7 .*use 6 or 8"):
        redi_of(tiny_config, tiny_model)
    assert not Path(tiny_config.kb.root).exists()


def test_history_that_was_not_stored_is_refused(
    tiny_config: Config, tiny_model: TextToImageModel
) -> None:
    tiny_config.sampler.name, tiny_config.retrieval.resume = "pndm", "retrieved"
    with pytest.raises(UsageError, match="kb.store_history=true"):
        redi_of(tiny_config, tiny_model)


def test_a_kb_of_another_model_is_refused(
    tiny_config: Config, tiny_model: TextToImageModel, tmp_path: Path
) -> None:
    tiny_config.kb.dir = str(tmp_path / "mine")
    redi_of(tiny_config, tiny_model)
    other = TextToImageModel(tiny_model.pipeline, guidance_scale=3.0, batch_size=4)
    with pytest.raises(UsageError, match="guidance_scale: KB has 2.5, this run 3.0"):
        redi_of(tiny_config, other)
