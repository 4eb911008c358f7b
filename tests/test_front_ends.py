"""Every method in both front ends: the framework's own loop, and a user's pipeline."""

from __future__ import annotations

import copy
import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import redi
from redi.config import Config
from redi.errors import UsageError
from redi.knowledge_base import KnowledgeBase
from redi.methods import METHODS, Fitted, Method, Query, Setup, register
from redi.methods.best import Best
from redi.methods.corrected import Adaptive, Corrected, Recipe
from redi.methods.dc import DCSolver
from redi.methods.dode import DODE
from redi.methods.olss import OLSS
from redi.methods.pas import PAS
from redi.methods.placed import Placed
from redi.methods.plain import Plain, Switch
from redi.methods.redi import ReDi
from redi.methods.solve import Outcome, solve
from redi.methods.span import Span
from redi.methods.v3 import DPMSolverV3
from redi.models.text_to_image import TextToImageModel, load_pipeline
from redi.samplers import Calls, build_scheduler
from redi.verbs.assemble import check, noise_from, prompts_from
from redi.verbs.build_kb import build
from redi.verbs.evaluate import setup_of
from redi.verbs.fit import fit_all

RECIPE = Recipe(patches=(1,), widths=(1.0,), ridges=(1e-2,), levels=("even", "late1.6"))
ASKED = 4
CALL = {"guidance_scale": 2.5, "output_type": "latent"}


def settings() -> dict[str, Method]:
    """Every registered method, set as small as it works."""
    made: dict[str, Method] = {
        "switch": Switch(2),
        "plain": Plain(4, "dpm_solver_pp", timestep_spacing="trailing"),
        "corrected": Corrected(3, RECIPE),
        "placed": Placed(3, "ddim", "late1.6"),
        "olss": OLSS(3),
        "dode": DODE(3, "gits", base="dpm_solver_pp"),
        "adaptive": Adaptive((2, 4), RECIPE, tolerance=0.3, risk=0.4),
        "best": Best(3, ("plain", "dc_solver"), trials=4),
        "dc_solver": DCSolver(4),
        "pas": PAS(3, order=2, tolerance=0),
        "span": Span(3, sweeps=2),
        "dpm_solver_v3": DPMSolverV3(3),
    }
    for name, kind in METHODS.items():
        if issubclass(kind, ReDi):
            made[name] = kind(2, 5, neighbours=2, estimator="delta")
    return {name: made.get(name) or kind() for name, kind in METHODS.items()}


@dataclass
class Bench:
    """A KB, a model and the same model as a pipeline."""

    config: Config
    model: TextToImageModel
    kb: KnowledgeBase
    setup: Setup
    pipe: Any

    def own(self, method: Method) -> Outcome:
        """The framework's own loop."""
        texts, noise = self.texts, noise_from(self.config)
        said = self.model.encode(texts)
        drawn = noise.draw([0] * len(texts), self.model.latent_shape)
        ids = tuple(range(len(texts)))
        query = Query(drawn, (0,) * len(texts), ids, said.embedding)
        return solve(method.bind(self.setup), query, self.model, said)

    def piped(self, method: Method, **changes: Any) -> Tensor:
        """The pipeline, enabled."""
        bound = method.bind(self.setup)
        steps = len(bound.timesteps) if method.own_levels else self.setup.sampler.num_steps
        with redi.enable(self.pipe, self.kb, method):
            return self.run(steps, **changes)

    def run(self, steps: int = 10, **changes: Any) -> Tensor:
        call = {**CALL, "generator": redi.generators(self.kb, ASKED), **changes}
        return self.pipe(self.texts, num_inference_steps=steps, **call).images

    @property
    def texts(self) -> list[str]:
        return prompts_from(self.config.data, "query", ASKED).texts


@pytest.fixture(scope="module")
def bench(
    tiny_folder: Path, tiny_model: TextToImageModel, tmp_path_factory: pytest.TempPathFactory
) -> Bench:
    config = _config(tiny_folder, tmp_path_factory.mktemp("front") / "kb")
    setting = check(config)
    kb = build(config, setting, tiny_model, lambda _: None)
    setup = setup_of(config, tiny_model, kb)
    fits = [method for method in settings().values() if isinstance(method, Fitted)]
    fit_all(fits, setup, noise_from(config), tiny_model, lambda _: None)
    pipe = load_pipeline(tiny_folder, torch.float32, torch.device("cpu"))
    pipe.scheduler = build_scheduler("ddim", pipe.scheduler.config, "trailing")
    pipe.set_progress_bar_config(disable=True)
    return Bench(config, tiny_model, kb, setup, pipe)


def _config(folder: Path, root: Path) -> Config:
    from redi.config import CorrectionConfig, KBConfig, ModelConfig, SamplerConfig, SamplingConfig

    return Config(
        sampler=SamplerConfig(name="ddim"),
        sampling=SamplingConfig(steps=10, guidance_scale=2.5),
        model=ModelConfig(path=str(folder), batch_size=4),
        kb=KBConfig(root=str(root), size=12, key_step=2, shard_size=4),
        correction=CorrectionConfig(calls=[2, 3, 4], levels=list(RECIPE.levels)),
        methods={name: one for name, one in settings().items() if isinstance(one, Fitted)},
    )


@pytest.mark.parametrize("name", METHODS)
def test_every_method_is_the_same_in_both_front_ends(name: str, bench: Bench) -> None:
    method = settings()[name]
    own, piped = bench.own(method), bench.piped(method)
    assert torch.equal(own.latents, piped)
    found = redi.summary(bench.pipe)
    assert found.samples == ASKED and found.network_calls == int(own.calls.sum())


@pytest.mark.parametrize(
    "method",
    [
        Placed(3, "ipndm_v", "oss", analytic=True),
        OLSS(3, "even", analytic=True),
        DODE(3, "poly", analytic=True),
        Corrected(3, RECIPE, analytic=True),
    ],
)
def test_an_analytic_first_step_costs_no_call_in_both_front_ends(
    method: Fitted, bench: Bench
) -> None:
    fit_all([method], bench.setup, noise_from(bench.config), bench.model, lambda _: None)
    own = bench.own(method)
    assert torch.equal(own.latents, bench.piped(method))
    assert own.calls.tolist() == [3] * ASKED
    assert redi.summary(bench.pipe).network_calls == 3 * ASKED


def test_levels_without_a_kb_are_the_models_own(bench: Bench) -> None:
    """The published table of Stable Diffusion, to the nearest of all timesteps."""
    method = Placed(4, "ipndm_v", "ays")
    with redi.enable(bench.pipe, None, method):
        piped = bench.run(4)
    free = replace(bench.setup, kb=None)
    assert len(method.bind(free).plan.sampler.call_timesteps) == 1000
    fine = Bench(bench.config, bench.model, bench.kb, free, bench.pipe)
    assert torch.equal(fine.own(method).latents, piped)
    on_grid = replace(method, grid=1000)
    assert torch.equal(bench.own(on_grid).latents, piped)
    assert not torch.equal(bench.own(method).latents, piped)  # ten steps lie elsewhere
    with pytest.raises(UsageError, match="grid=50 does nothing with levels='gits'"):
        Placed(4, "ddim", "gits", grid=50)


def test_a_hit_and_a_miss_of_one_call_part_ways(bench: Bench) -> None:
    method = ReDi(2, 5)
    distances = bench.own(method).found.distances[:, 0]  # type: ignore[union-attr]
    some = replace(method, max_distance=float(distances.sort().values[1:3].mean()))
    own = bench.own(some)
    assert torch.equal(own.latents, bench.piped(some))
    found, hits = redi.summary(bench.pipe), int(own.notes.hits.sum())  # type: ignore[union-attr]
    assert 0 < hits < ASKED and (found.hits, found.misses) == (hits, ASKED - hits)
    assert found.network_calls == 5 + 2 * ASKED + hits * 5 + (ASKED - hits) * 8 - 5


def test_another_sampler_needs_no_kb(bench: Bench) -> None:
    own = bench.pipe.scheduler
    with redi.enable(bench.pipe, None, Plain(4, "unipc", timestep_spacing="trailing")):
        enabled = bench.run(4)
    bench.pipe.scheduler = build_scheduler("unipc", own.config, "trailing")
    try:
        assert torch.equal(enabled, bench.run(4))
    finally:
        bench.pipe.scheduler = own


def test_a_method_is_one_class_and_is_gone_when_it_is_taken_away(bench: Bench) -> None:
    @register
    @dataclass
    class Toy(Method):
        """Two Euler steps."""

        name = "toy"
        title = "a toy"
        own_levels = True
        calls: int = 2

        def prepare(self) -> None:
            self.few = Plain(self.calls, "ddim", timestep_spacing="trailing").bind(self.setup)

        @property
        def sampler(self):  # type: ignore[no-untyped-def]
            return self.few.sampler

        def run(self, query: Query) -> Calls[Tensor]:
            return (yield from self.few.run(query))

    try:
        with redi.enable(bench.pipe, bench.kb, "toy", num_inference_steps=2):
            piped = bench.run(2)
        assert torch.equal(bench.own(Toy()).latents, piped)
        from hydra import compose, initialize

        from redi.schemas import register as register_configs

        register_configs()
        with initialize(version_base=None):
            config = compose("base_run", ["+methods=toy", "methods.toy.calls=3"])
        assert config.methods.toy.calls == 3
    finally:
        del METHODS["toy"]
    with pytest.raises(UsageError, match="method='toy' is unknown"):
        redi.enable(bench.pipe, bench.kb, "toy", num_inference_steps=2)


# the stand-in is honest


def test_a_library_that_looks_up_its_step_sees_the_true_schedule(bench: Bench) -> None:
    plain, seen = bench.run(), []

    def look_up(pipe: Any, i: int, t: Tensor, told: dict[str, Any]) -> dict[str, Any]:
        seen.append((i, [int(x) for x in pipe.scheduler.timesteps].index(int(t))))
        return {}

    jumped = bench.piped(ReDi(2, 5), callback_on_step_end=look_up)
    assert seen == [(i, i) for i in range(10)]  # also over the steps that are left out
    assert torch.equal(jumped, bench.piped(ReDi(2, 5))) and not torch.equal(jumped, plain)


def test_steps_that_are_left_out_do_not_run_the_network(bench: Bench) -> None:
    ran, first = [], bench.pipe.unet.conv_in

    def count(module: Any, *_: Any) -> None:
        if module is first:
            ran.append(1)

    handle = torch.nn.modules.module.register_module_forward_hook(count)
    try:
        bench.piped(ReDi(2, 5))
    finally:
        handle.remove()
    found = redi.summary(bench.pipe)
    assert len(ran) == 7 and found.network_rows == 7 * 2 * ASKED
    assert "forward" not in vars(bench.pipe.unet)


@pytest.mark.parametrize("name", ["full", "redi", "corrected", "adaptive"])
@pytest.mark.parametrize("in_place", [True, False])
def test_what_a_callback_does_to_latents_counts(name: str, in_place: bool, bench: Bench) -> None:
    def double(pipe: Any, i: int, t: Tensor, told: dict[str, Any]) -> dict[str, Any]:
        if i != 1:
            return {}
        if in_place:
            told["latents"].mul_(1.5)
            return {}
        return {"latents": told["latents"] * 1.5}

    method = settings()[name]
    changed = bench.piped(method, callback_on_step_end=double)
    assert not torch.equal(changed, bench.piped(method))
    other = bench.piped(method, callback_on_step_end=lambda *a: double(*a))
    assert torch.equal(changed, other)
    if name == "full":
        assert torch.equal(changed, bench.run(callback_on_step_end=double))


def test_in_place_and_out_of_place_changes_are_one(bench: Bench) -> None:
    def out(pipe: Any, i: int, t: Tensor, told: dict[str, Any]) -> dict[str, Any]:
        return {"latents": told["latents"] + 0.25} if i == 1 else {}

    def inside(pipe: Any, i: int, t: Tensor, told: dict[str, Any]) -> dict[str, Any]:
        if i == 1:
            told["latents"] += 0.25
        return {}

    for name in ("redi", "corrected"):
        method = settings()[name]
        both = [bench.piped(method, callback_on_step_end=change) for change in (out, inside)]
        assert torch.equal(*both)


def test_a_class_that_is_patched_by_another_library_stays_patched(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, original, calls = type(bench.pipe), type(bench.pipe).__call__, []
    bench.piped(ReDi(2, 5))

    def patched(self: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(kind, "__call__", patched)
    bench.piped(ReDi(2, 5))  # patched after redi was used first
    assert len(calls) == 1
    with redi.enable(bench.pipe, bench.kb, ReDi(2, 5)):
        enabled = type(bench.pipe)
        inner = enabled.__call__

        def again(self: Any, *args: Any, **kwargs: Any) -> Any:
            calls.append(2)
            return inner(self, *args, **kwargs)

        enabled.__call__ = again  # type: ignore[method-assign]
        bench.run()
        assert calls[1:] == [2, 1]
    bench.run()  # patched while enabled: it stays
    assert calls[3:] == [2, 1] and type(bench.pipe) is kind


def test_a_copy_is_a_pipeline_of_its_own(bench: Bench) -> None:
    with redi.enable(bench.pipe, bench.kb, ReDi(2, 5)):
        other = copy.deepcopy(bench.pipe)
        assert type(other) is type(bench.pipe)._redi_original
        mine = bench.run()
    with redi.enable(other, bench.kb, ReDi(2, 5)):
        call = {**CALL, "generator": redi.generators(bench.kb, ASKED), "num_inference_steps": 10}
        assert torch.equal(other(bench.texts, **call).images, mine)


def test_two_threads_on_one_pipeline_are_told_so(bench: Bench) -> None:
    inside, go_on, said = threading.Event(), threading.Event(), []

    def wait(pipe: Any, i: int, t: Tensor, told: dict[str, Any]) -> dict[str, Any]:
        inside.set()
        go_on.wait(30)
        return {}

    with redi.enable(bench.pipe, bench.kb, ReDi(2, 5)):
        first = threading.Thread(target=lambda: bench.run(callback_on_step_end=wait))
        first.start()
        inside.wait(30)
        try:
            with pytest.raises(UsageError, match="give each thread a pipeline of its own"):
                bench.run()
        finally:
            go_on.set()
            first.join()
        said.append(redi.summary(bench.pipe).samples)
    assert said == [ASKED]


def test_the_guidance_difference_is_seen_through_the_network(bench: Bench) -> None:
    method = replace(settings()["corrected"], recipe=replace(RECIPE, features=("guidance",)))
    fit_all([method], bench.setup, noise_from(bench.config), bench.model, lambda _: None)
    assert torch.equal(bench.own(method).latents, bench.piped(method))


def test_controlnet_windows_are_exact_over_a_jump(tmp_path: Path) -> None:
    from tiny_pipelines import build

    from redi.pipeline import record

    pipe = _with_controlnet(build("Stable Diffusion 1.x"))
    picture = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    call = {"num_inference_steps": 8, "image": picture, "output_type": "latent"}
    call |= {"control_guidance_start": 0.25, "control_guidance_end": 0.5}
    options = {"key_step": 2, "value_steps": [5], "store_history": True, "progress": False}
    kb = record(pipe, ["a red fox"], tmp_path / "kb", **options, **call)
    plain = pipe("a red fox", generator=redi.generators(kb), **call).images
    with redi.enable(pipe, kb, value_step=5, resume="retrieved"):
        jumped = pipe("a red fox", generator=redi.generators(kb), **call).images
    assert torch.equal(plain, jumped)
    assert redi.summary(pipe).network_calls == 5


def test_a_window_of_skipped_layers_is_exact_over_a_jump(tmp_path: Path) -> None:
    from tiny_pipelines import ARGUMENTS, build

    pipe = build("Stable Diffusion 3")
    call = {"num_inference_steps": 8, "output_type": "latent", "guidance_scale": 3.0}
    call |= {**ARGUMENTS["Stable Diffusion 3"], "skip_guidance_layers": [0]}
    call |= {"skip_layer_guidance_start": 0.3, "skip_layer_guidance_stop": 0.8}
    options = {"key_step": 2, "value_steps": [5], "progress": False}
    kb = redi.record(pipe, ["a red fox"], tmp_path / "kb", **options, **call)
    plain = pipe("a red fox", generator=redi.generators(kb), **call).images
    with redi.enable(pipe, kb, value_step=5):
        jumped = pipe("a red fox", generator=redi.generators(kb), **call).images
    assert torch.equal(plain, jumped)
    found = redi.summary(pipe)
    # guided calls have two rows; the window's own calls have one, at steps 5 and 6, and once at
    # step 3, which is left out, because its shape was not seen before
    assert found.network_calls == 5 and found.network_rows == 2 * 5 + 3


def test_a_bank_is_searched_by_the_noise_that_a_generator_names(tmp_path: Path) -> None:
    from tiny_pipelines import build

    pipe = build("Stable Diffusion 1.x")
    call = {"num_inference_steps": 6, "output_type": "latent"}
    prompts = ["a fox", "a car", "a tree", "a house"]
    options = {"key_step": 2, "value_steps": [4], "noise": "bank", "bank_size": 2}
    kb = redi.record(pipe, prompts, tmp_path / "kb", progress=False, **options, **call)
    plain = pipe(prompts[1:3], generator=redi.generators(kb, ids=[1, 0]), **call).images
    with redi.enable(pipe, kb, value_step=4, estimator="transport"):
        jumped = pipe(prompts[1:3], generator=redi.generators(kb, ids=[1, 0]), **call).images
        with pytest.raises(UsageError, match="does not say which of them"):
            pipe(prompts[1], generator=torch.Generator().manual_seed(3), **call)
    assert torch.allclose(plain, jumped, atol=1e-4)
    assert max(redi.summary(pipe).distances) < 1e-3


def test_a_method_of_the_configuration_is_a_point_of_the_run(
    tiny_config: Config, tmp_path: Path
) -> None:
    import json

    from rich.console import Console

    from redi.config import MetricsConfig
    from redi.verbs.run import main_job

    tiny_config.baselines, tiny_config.data.num_queries = [], 4
    tiny_config.metrics = MetricsConfig(hooks=["cost", "fidelity"], resamples=50)
    tiny_config.methods = {
        "mine": Plain(3, "dpm_solver_pp", timestep_spacing="trailing"),
        "few": Corrected(2, RECIPE),
    }
    folder = main_job(tiny_config, tmp_path / "run", True, Console(quiet=True))
    points = json.loads((folder / "results.json").read_text())["points"]
    found = {point["label"]: (point["method"], point["calls"]) for point in points}
    assert found["mine"] == ("plain", 3) and found["few"] == ("corrected", 2)
    tiny_config.methods = {"mine": {"calls": 3}}
    with pytest.raises(UsageError, match=r"methods.mine=.* is no method: use \+methods=NAME"):
        main_job(tiny_config, tmp_path / "other", True, Console(quiet=True))


def _with_controlnet(pipe: Any) -> Any:
    from diffusers import ControlNetModel, StableDiffusionControlNetPipeline

    torch.manual_seed(0)
    net = ControlNetModel.from_unet(pipe.unet, conditioning_embedding_out_channels=(4, 8))
    for parameter in net.parameters():  # its output layers start at zero
        torch.nn.init.normal_(parameter, std=0.2)
    parts = {**pipe.components, "controlnet": net}
    made = StableDiffusionControlNetPipeline(**parts, requires_safety_checker=False)
    made.set_progress_bar_config(disable=True)
    return made
