"""The model wrapper: independent of batching, counted calls, clear errors."""

from __future__ import annotations

from dataclasses import replace
from functools import partialmethod
from pathlib import Path

import pytest
import torch
from running import run_plain

from redi.config import Config
from redi.data.noise import NoisePolicy
from redi.errors import UsageError
from redi.models import network
from redi.models.content import content_hash
from redi.models.noise_form import NoiseForm
from redi.models.text_to_image import TextToImageModel, load_pipeline
from redi.samplers import build_sampler
from redi.theory.multistep import multistep
from redi.verbs.assemble import check, model_from

PROMPTS = [f"a {word} fox" for word in ("red", "blue", "small", "large", "white", "black")]


def final(model: TextToImageModel, rows: list[int], sampler: str = "dpm_solver_pp") -> torch.Tensor:
    noise = NoisePolicy("per_prompt").draw(rows, model.latent_shape)
    conditioning = model.encode([PROMPTS[row] for row in rows])
    plain = build_sampler(sampler, model.scheduler_config, 5, "trailing")
    return run_plain(model, plain, conditioning, noise).latents


@pytest.mark.parametrize("sampler", ["ddim", "pndm", "dpm_solver_pp"])
def test_a_sample_does_not_depend_on_its_batch_or_place(
    tiny_model: TextToImageModel, sampler: str
) -> None:
    together = final(tiny_model, [0, 1, 2, 3, 4, 5], sampler)
    alone = torch.cat([final(tiny_model, [row], sampler) for row in range(6)])
    shuffled = final(tiny_model, [3, 5, 0, 2], sampler)
    assert torch.equal(together, alone)
    assert torch.equal(shuffled, together[[3, 5, 0, 2]])
    pictures = tiny_model.decode(together)
    assert torch.equal(tiny_model.decode(together[4:5]), pictures[4:5])


def test_calls_count_samples_not_padding(tiny_model: TextToImageModel) -> None:
    before, _ = tiny_model.meter.snapshot()
    final(tiny_model, [0, 1, 2, 3, 4], "ddim")
    assert tiny_model.meter.snapshot()[0] - before == 5 * 5


def test_guidance_one_uses_the_prompt_alone(tiny_model: TextToImageModel) -> None:
    bare = TextToImageModel(tiny_model.pipeline, guidance_scale=1.0, batch_size=4)
    latents, t = torch.randn(2, 4, 8, 8), torch.tensor(300)
    conditioning = bare.encode(PROMPTS[:2])
    with torch.no_grad():
        expected = bare.network(
            torch.cat([latents, latents[-1:], latents[-1:]]),
            t,
            torch.cat([conditioning.states, conditioning.states[-1:].expand(2, -1, -1)]),
        ).sample[:2]
    assert torch.equal(bare.predictor(conditioning)(latents, t), expected)


def test_a_watcher_sees_what_guidance_adds(tiny_model: TextToImageModel) -> None:
    conditioning = tiny_model.encode(["a", "b", "c"])
    latents, timestep = torch.randn(3, *tiny_model.latent_shape), torch.tensor(500)
    seen: list[torch.Tensor] = []
    plain = tiny_model.predictor(conditioning)(latents, timestep)
    watched = tiny_model.predictor(conditioning, seen.append)(latents, timestep)
    assert torch.equal(plain, watched)
    scale = tiny_model.guidance_scale
    tiny_model.guidance_scale = 2 * scale
    twice = tiny_model.predictor(conditioning)(latents, timestep)
    tiny_model.guidance_scale = scale
    assert torch.allclose(twice - plain, scale * seen[0], atol=1e-5)
    assert len(seen) == 1 and seen[0].abs().max() > 0


def test_noise_is_what_the_pipeline_would_draw() -> None:
    policy = NoisePolicy("bank", 4, seed=3)
    drawn = policy.draw([2, 0], (4, 8, 8))
    assert torch.equal(drawn[0], torch.randn((1, 4, 8, 8), generator=policy.generator(2))[0])
    other = NoisePolicy("bank", 4, seed=4).draw([2], (4, 8, 8))
    assert not torch.equal(other[0], drawn[0])
    assert [policy.kb_id(i) for i in range(6)] == [0, 1, 2, 3, 0, 1]
    per_prompt = NoisePolicy("per_prompt")
    assert not {per_prompt.kb_id(i) for i in range(99)} & {
        per_prompt.query_id(i) for i in range(99)
    }


def test_content_hash_sees_every_weight(tiny_model: TextToImageModel) -> None:
    before = content_hash(tiny_model.network)
    parameter = next(tiny_model.network.parameters())
    with torch.no_grad():
        parameter.view(-1)[0] += 1e-3
        changed = content_hash(tiny_model.network)
        parameter.view(-1)[0] -= 1e-3
    assert changed != before


def test_a_folder_that_is_no_pipeline_is_refused(tmp_path: Path) -> None:
    for folder, words in ((tmp_path / "gone", "not a directory"), (tmp_path, "model_index.json")):
        with pytest.raises(UsageError, match=words):
            load_pipeline(folder, torch.float32, torch.device("cpu"))
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(UsageError, match="cannot be loaded"):
        load_pipeline(tmp_path, torch.float32, torch.device("cpu"))


def test_noise_form_runs_every_sampler_to_the_same_end(tiny_model: TextToImageModel) -> None:
    assert tiny_model.scheduler_config["prediction_type"] == "v_prediction"
    model = NoiseForm(tiny_model)
    noise = NoisePolicy().draw([0], model.latent_shape)
    conditioning = model.encode(["a fox"])
    for name in ("ddim", "dpm_solver", "dpm_solver_pp"):
        ends = [
            run_plain(
                m, build_sampler(name, m.scheduler_config, 10, "trailing"), conditioning, noise
            )
            for m in (tiny_model, model)
        ]
        assert torch.allclose(ends[0].latents, ends[1].latents, rtol=0, atol=1e-3)
    raw = build_sampler("pndm", tiny_model.scheduler_config, 10, "trailing")
    with pytest.raises(UsageError, match="wrap the model in NoiseForm"):
        multistep(raw)
    assert multistep(build_sampler("pndm", model.scheduler_config, 10, "trailing"))


@pytest.mark.parametrize(
    ("name", "said"), [("channels_last", "channels_last"), ("compile", "compiled")]
)
def test_a_way_to_run_the_network_changes_rounding_and_identity_alone(
    tiny_config: Config, monkeypatch: pytest.MonkeyPatch, name: str, said: str
) -> None:
    eager = partialmethod(torch.nn.Module.compile, backend="eager")  # no compiler is needed
    monkeypatch.setattr(torch.nn.Module, "compile", eager)
    plain, other = (
        model_from(replace(tiny_config.model, **{name: value}), 3.0, "") for value in (False, True)
    )
    assert torch.allclose(final(plain, [0, 1]), final(other, [0, 1]), atol=1e-4)
    assert torch.equal(final(other, [0, 1, 2, 3, 4])[4:], final(other, [4]))
    assert other.identity() == plain.identity() | {said: True}
    assert other.identity()["model_hash"] == plain.identity()["model_hash"]


def test_compiling_without_a_compiler_is_refused_before_any_work(
    tiny_config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network.shutil, "which", lambda name: None)
    config = replace(tiny_config, model=replace(tiny_config.model, compile=True))
    with pytest.raises(UsageError, match="install g\\+\\+"):
        check(config)
