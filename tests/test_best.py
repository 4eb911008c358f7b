"""The best sampler by left-out error: what is left out, what it costs, and whether it is kept."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from mixtures import bench
from rich.console import Console
from tiny_pipelines import ARGUMENTS, build

import redi
from redi.errors import UsageError
from redi.knowledge_base import KnowledgeBase, Part
from redi.methods.best import Best, candidates
from redi.methods.best.left_out import Allowance, folds_of, for_rows
from redi.methods.dc import DCSolver
from redi.methods.dode import DODE
from redi.methods.few import Teacher
from redi.methods.olss import OLSS
from redi.methods.placed import Placed
from redi.pipeline.fitting import reference_setup
from redi.samplers import Ask

STEPS, FEW = 12, 3
PROMPTS = [f"a {colour} {thing}" for colour in ("red", "blue", "small") for thing in ("fox", "car")]
ASKED = ["a red house", "a green tree"]
METHODS = ("plain", "dc_solver")


def call_of(name: str) -> dict[str, Any]:
    return {"output_type": "latent", "batch_size": 3, **ARGUMENTS.get(name, {})}


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, KnowledgeBase]:
    pipe, root = build("SDXL"), tmp_path_factory.mktemp("best") / "kb"
    call = {**call_of("SDXL"), "num_inference_steps": STEPS, "noise": "per_prompt"}
    return pipe, redi.record(pipe, PROMPTS, root, budgets=[2, FEW], progress=False, **call)


def fitted(pipe: Any, kb: KnowledgeBase, **changes: Any) -> Any:
    rest = {**call_of("SDXL"), "methods": METHODS, "progress": False}
    return redi.fit(pipe, kb, **{**rest, **changes})


def test_a_fold_leaves_out_whole_groups_of_every_partition() -> None:
    prompts, noises = [f"{i // 3}" for i in range(48)], [i % 3 // 2 for i in range(48)]
    partitions = np.array(noises)
    folds = folds_of(prompts, noises, partitions, 4)
    where: dict[Any, set[int]] = {}
    for row, fold in zip(zip(prompts, noises, strict=True), folds.tolist(), strict=True):
        where.setdefault(row, set()).add(fold)
    assert len(where) == 32 and all(len(found) == 1 for found in where.values())
    counts = Counter((row[1], *fold) for row, fold in where.items())
    assert set(counts.values()) == {4}  # 16 groups of each noise over 4 folds
    with pytest.raises(UsageError, match="holds 3 different trajectories, too few"):
        folds_of(["a", "b", "c", "a"], [0] * 4, np.zeros(4), 2)


def test_a_fit_to_some_rows_is_the_fit_to_them_alone() -> None:
    whole = replace(bench(count=12), together=1)
    rows = torch.tensor([7, 2, 9, 4, 0])
    some = whole.chosen(rows)
    plan, method = whole.plan(4), DCSolver(4)
    alone = some.answered(method.fit_to(plan, some.teacher, lambda _: None))
    inside = Teacher(some.setup, whole.start[rows])
    calls = for_rows(method.fit_to(plan, inside, lambda _: None), rows, 12)
    assert torch.equal(whole.answered(calls)["ratios"], alone["ratios"])
    assert not torch.equal(alone["ratios"], torch.ones(4).double())
    assert whole.asked == 4 * 5


def test_a_part_reads_its_own_rows(recorded: tuple[Any, KnowledgeBase], tmp_path: Path) -> None:
    _, kb = recorded
    part = Part(kb, torch.tensor([4, 1]), tmp_path)
    assert part.prompts == [PROMPTS[4], PROMPTS[1]] and part.noise_ids.tolist() == [4, 1]
    assert len(part) == 2 and part.stored_steps == kb.stored_steps
    assert torch.equal(part.latents(STEPS), kb.latents(STEPS)[[4, 1]])
    assert torch.equal(part.latents(STEPS, torch.tensor([1])), kb.latents(STEPS)[[1]])
    others = Part(kb, torch.tensor([1, 4]), tmp_path)
    assert len({kb.content_hash, part.content_hash, others.content_hash}) == 3
    first = Part(kb, torch.tensor([4]), tmp_path)
    assert (
        part.first(1).content_hash == first.content_hash and part.first(1).prompts == first.prompts
    )
    assert part.first(2) is part


@pytest.mark.parametrize(
    "left, much, done", [(5, False, 5), (4, False, 4), (9, True, 4), (5, True, 2)]
)
def test_an_allowance_stops_a_run_before_it_is_overdrawn(left: int, much: bool, done: int) -> None:
    def calls() -> Any:
        for _ in range(5):
            yield Ask(torch.zeros(1, 1), torch.tensor(0), 0)
        return "ended"

    allowed, made = Allowance(left), 0
    run = allowed.of(calls(), much)
    try:
        next(run)
        while True:
            made += 1
            run.send(None)
    except StopIteration as end:
        assert end.value == ("ended" if done == 5 else None)
    assert (made, allowed.spent, allowed.left) == (done, done, left - done)


def test_the_winner_is_kept_and_its_forecast_is_that_of_left_out_runs(
    recorded: tuple[Any, KnowledgeBase],
) -> None:
    pipe, kb = recorded
    path = fitted(pipe, kb, calls=FEW)
    assert path == fitted(pipe, kb, calls=FEW)
    assert [one.name for one in path.parent.glob("*.parts")] == []
    best = Best(FEW, METHODS).bind(reference_setup(pipe, kb))
    assert {row.label.split(":")[0] for row in best.rows} >= {"ddim", "unipc", "dc_solver"}
    assert best.forecast.error == min(row.error for row in best.rows if row.error is not None)
    assert best.forecast.low <= best.forecast.error <= best.forecast.high  # type: ignore[operator]
    told = best.describe()
    assert (told["method"], told["estimator"], told["steps"]) == ("best", best.label, FEW)
    assert told["predicted_latent_error"] == best.forecast.error
    assert told["fit_calls"] > sum(row.calls for row in best.rows)
    console = Console(file=StringIO(), width=120)
    console.print(best.report(best.setup))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert shown.count("chosen") == 1 and f"{best.forecast.error:.4f}" in shown
    # a plain sampler's row is what the pipeline gets with it
    row = next(row for row in best.rows if row.label.startswith("unipc"))
    base, levels = row.label.split(":")
    call = {"num_inference_steps": FEW, "output_type": "latent"}
    with redi.enable(pipe, kb, Placed(FEW, base, levels)):
        found = pipe(PROMPTS, generator=redi.generators(kb, ids=range(6)), **call).images
    full = kb.latents(STEPS)
    errors = (found - full).flatten(1).norm(dim=1) / full.flatten(1).norm(dim=1)
    assert row.error == pytest.approx(float(errors.mean()), rel=1e-3)
    with redi.enable(pipe, kb, "best", num_inference_steps=FEW, methods=METHODS):
        few = pipe(ASKED, generator=redi.generators(kb, ids=[0, 1]), **call).images
    assert redi.summary(pipe).network_calls == 2 * FEW
    with redi.enable(pipe, kb, best.chosen):
        chosen = pipe(ASKED, generator=redi.generators(kb, ids=[0, 1]), **call).images
    assert torch.equal(few, chosen)


def test_the_fewest_calls_that_keep_an_error(recorded: tuple[Any, KnowledgeBase]) -> None:
    pipe, kb = recorded
    for calls in (2, FEW):
        fitted(pipe, kb, calls=calls)
    setup = reference_setup(pipe, kb)
    worst = [float(Best(n, METHODS).bind(setup).errors.max()) for n in (2, FEW)]
    assert worst[1] < worst[0]
    between = sum(worst) / 2
    # of 6 errors none is above: 1 of 7 is at most a share of .2
    assert fitted(pipe, kb, tolerance=between, risk=0.2) == FEW
    assert fitted(pipe, kb, tolerance=worst[0], risk=0.2) == 2
    with pytest.raises(UsageError, match="risk=0.1 by no number of calls .* 2 calls .*, 3 calls"):
        fitted(pipe, kb, tolerance=between, risk=0.1)


def test_flux_levels_that_depend_on_the_size_are_followed(tmp_path: Path) -> None:
    pipe, call = build("Flux"), {**call_of("Flux"), "num_inference_steps": STEPS}
    options = {"budgets": [FEW], "noise": "per_prompt", "progress": False}
    kb = redi.record(pipe, PROMPTS[:4], tmp_path / "kb", **options, **call)
    allowed = ("plain", "pas", "corrected")
    redi.fit(pipe, kb, calls=FEW, **{**call_of("Flux"), "methods": allowed, "progress": False})
    best = Best(FEW, allowed).bind(reference_setup(pipe, kb))
    plain = [row.error for row in best.rows if ":" in row.label]
    assert 0 < best.forecast.error <= min(plain) < 0.2  # type: ignore[type-var, operator]
    assert best.rows[-2].error is not None and "tokens" in best.rows[-1].why
    del call["batch_size"]
    start = {"generator": redi.generators(kb, ids=range(4)), "num_inference_steps": FEW}
    with redi.enable(pipe, kb, Placed(FEW, "ddim")):
        few = pipe(PROMPTS[:4], **{**call, **start}).images
    start["generator"] = redi.generators(kb, ids=range(4))
    assert torch.allclose(few, pipe(PROMPTS[:4], **{**call, **start}).images, atol=1e-5)


@pytest.mark.parametrize("name", ["Stable Diffusion 3", "Lumina 2"])
def test_shifted_levels_of_pictures_are_followed(name: str, tmp_path: Path) -> None:
    """Flow pipelines whose latents are no tokens, with the shift that Flux has; not square."""
    pipe = build(name)
    pipe.scheduler = FlowMatchEulerDiscreteScheduler(
        shift=3.0, use_dynamic_shifting=True, base_image_seq_len=4, max_image_seq_len=64
    )
    call = {**call_of(name), "num_inference_steps": STEPS}
    call["width"] //= 2
    options = {"budgets": [FEW], "noise": "per_prompt", "progress": False}
    kb = redi.record(pipe, PROMPTS, tmp_path / "kb", **options, **call)
    redi.fit(pipe, kb, redi.Corrected(FEW), progress=False, **call)
    del call["batch_size"]

    def run(steps: int) -> Any:
        generators = redi.generators(kb, ids=range(len(PROMPTS)))
        told = {**call, "num_inference_steps": steps, "generator": generators}
        return pipe(PROMPTS, **told).images

    full = run(STEPS)
    levels = reference_setup(pipe, kb).sampler.scheduler.timesteps
    assert torch.equal(levels, pipe.scheduler.timesteps)
    pipe.scheduler.set_timesteps(STEPS, mu=0.0)
    assert (levels - pipe.scheduler.timesteps).abs().max() > 10  # the shift is one
    assert torch.allclose(full, kb.latents(STEPS), atol=1e-5)
    plain = run(FEW)
    with redi.enable(pipe, kb, redi.Corrected(FEW)):
        few = run(FEW)
    assert redi.summary(pipe).network_calls == FEW * len(PROMPTS)
    assert (few - full).norm() < 0.5 * (plain - full).norm()


def test_what_cannot_work_is_said(recorded: tuple[Any, KnowledgeBase]) -> None:
    pipe, kb = recorded
    for words, options in (
        ("methods has 'spam', which is unknown", {"calls": 2, "methods": ["spam"]}),
        ("names a method twice", {"calls": 2, "methods": ["plain", "plain"]}),
        ("budget=3 is too small", {"calls": 2, "budget": 3}),
        ("give calls alone", {"num_inference_steps": 2, "calls": 2}),
        ("give neither", {"tolerance": 0.1, "num_inference_steps": 2}),
        ("give one, or a tolerance", {"calls": [2, 3]}),
        ("calls=0 is too small", {"calls": 0}),
        ("too few to leave them out in 2 parts", {"calls": 2, "kb": 3}),
    ):
        of = KnowledgeBase(kb.root, options.pop("kb")) if "kb" in options else kb
        with pytest.raises(UsageError, match=words):
            fitted(pipe, of, **options)
    bare = KnowledgeBase(kb.root)
    vars(bare)["stored_steps"] = (STEPS,)
    with pytest.raises(UsageError, match="nothing to choose from .*no latents after step"):
        fitted(pipe, bare, calls=2, methods=["dc_solver"])
    few = 6 * 2 * 25 + 6 * 5 * 2  # placements, and the plain samplers whole
    fitted(pipe, kb, calls=2, budget=few + 30)
    rows = Best(2, METHODS, budget=few + 30).bind(reference_setup(pipe, kb)).rows
    assert rows[-1].why == "beyond the budget" and rows[-1].calls <= 15


def test_methods_compete_in_the_forms_that_err_least() -> None:
    assert candidates.fitted("olss", 5, "oss") == OLSS(calls=5, levels="oss", states="visited")
    assert candidates.fitted("dode", 5, "even") == DODE(
        calls=5, levels="even", base="dpm_solver_pp"
    )
