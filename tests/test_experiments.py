"""The shipped experiments, and what they are made of."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from rich.console import Console
from test_sources import write_coco

from redi.composition import compose_config, experiment_sweep, experiments, points
from redi.config import Config
from redi.embedded.captions import prompts
from redi.errors import UsageError
from redi.methods import Query, Setup
from redi.methods.plain import Full
from redi.metrics.catalogue import wanted
from redi.models.text_to_image import TextToImageModel
from redi.retrieval import JointSearch
from redi.samplers import build_sampler
from redi.verbs.assemble import (
    check,
    manifest_from,
    model_from,
    queries_from,
    sampler_from,
    setting_from,
    stored_steps,
)
from redi.verbs.reference import ReferenceRuns
from redi.verbs.run import check_baselines, main_job

NAMES = [
    "equal_calls",
    "estimators",
    "guidance",
    "kb_size",
    "key",
    "noise",
    "other_samplers",
    "paper_sd15",
    "pndm",
    "quality",
    "rivals",
    "rivals_bank",
    "rivals_growth",
    "rivals_pictures",
    "skip",
    "stylization",
]


def test_there_is_one_file_for_each_experiment():
    assert experiments() == NAMES
    with pytest.raises(
        UsageError, match="experiment='speed' is unknown; use one of equal_calls, estimators"
    ):
        points(["experiment=speed"])


@pytest.mark.parametrize("name", NAMES)
def test_every_point_of_an_experiment_is_sound(name: str, tmp_path: Path):
    coco = []
    if name == "paper_sd15":  # its captions are not shipped
        write_coco(tmp_path, 6000)
        coco = [f"data.root={tmp_path}", "kb.size=5000"]
    overrides = points([f"experiment={name}", *coco])
    assert overrides and experiment_sweep([f"experiment={name}"])
    for override in (overrides[0], overrides[-1]):
        config = compose_config("run", override)
        check(config)
        assert "plain" in config.baselines
        if name.startswith("rivals"):  # held against a converged run
            assert override is not overrides[0] or config.correction.calls
            assert set(config.correction.against) >= {"dpm_solver_pp"}
            continue


def test_the_paper_s_samplers_of_an_experiment_have_their_own_lengths():
    found = {}
    for override in points(["experiment=guidance"]):
        config = compose_config("run", override)
        told = (config.sampling.steps, config.kb.key_step, setting_from(config).value_step)
        found.setdefault(config.sampler.name, set()).add(told)
    assert found == {"pndm": {(50, 10, 35)}, "dpm_solver": {(20, 4, 14)}}


def test_the_key_steps_of_an_experiment_share_a_knowledge_base():
    found = [compose_config("run", override) for override in points(["experiment=pndm"])]
    keys = {(c.kb.key_step, setting_from(c).value_step) for c in found}
    assert keys == {(2, 27), (5, 30), (10, 35), (15, 40)}
    assert len({tuple(stored_steps(c, setting_from(c))) for c in found}) == 1


def test_overrides_on_the_command_line_win():
    assert len(points(["experiment=skip", "retrieval.tolerance=0.4,0.5,0.6"])) == 3
    found = compose_config("run", points(["experiment=skip", "retrieval.tolerance=0.4"])[0])
    assert found.retrieval.tolerance == 0.4


@pytest.mark.parametrize("share", [0.0, 0.9])
def test_a_share_that_leaves_no_room_is_refused(share: float, tiny_config: Config):
    tiny_config.retrieval.skip_share = share
    with pytest.raises(UsageError, match="retrieval.skip_share"):
        setting_from(tiny_config)


def test_late_styles_change_nothing_but_the_style():
    config = Config().data
    config.num_queries, config.repeats, config.late_style = 40, 2, True
    config.query_styles = ["3d"]
    found = queries_from(config)
    assert found.early is not None and found.scenes is not None and len(found.texts) == 80
    assert found.texts[0::2] == found.texts[1::2] and {s.style for s in found.scenes} == {"3d"}
    for text, early in zip(found.texts, found.early, strict=True):
        assert "3d style" in text and "style" not in early
        assert set(early.replace(",", "").split()) <= {*text.replace(",", "").split(), "a", "an"}
    with pytest.raises(UsageError, match="drawing style 'oil' is unknown"):
        prompts("kb", 1, styles=("oil",))


def test_reference_runs_are_read_back_bit_for_bit(tiny_model: TextToImageModel, tmp_path: Path):
    full = Full().bind(Setup(build_sampler("ddim", tiny_model.scheduler_config, 5)))
    conditioning = tiny_model.encode(["a cat", "a dog"])
    noise = torch.randn(2, *tiny_model.latent_shape, generator=torch.Generator().manual_seed(0))
    runs = ReferenceRuns(tmp_path, tiny_model)
    query = Query(noise, (0, 0), (0, 1))
    first = runs.run(full, query, conditioning, watch=(3,))
    again = runs.run(full, query, conditioning, watch=(3,))
    assert (runs.computed, runs.read) == (1, 1) and again.cost.calls == first.cost.calls == 5
    assert again.cost.network_seconds == first.cost.network_seconds > 0
    assert torch.equal(first.latents, again.latents)
    assert torch.equal(first.watched[3], again.watched[3])
    other = replace(query, noise=noise + 1)
    runs.run(full, other, conditioning)  # another noise is another run
    assert 2 in runs.run(full, query, conditioning, watch=(2,)).watched  # every step is had
    assert (runs.computed, runs.read) == (2, 2)
    for path in tmp_path.glob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:-9])  # cut short
    assert torch.equal(runs.run(full, query, conditioning).latents, first.latents)
    assert (runs.computed, runs.read) == (3, 2)


def test_joint_keys_do_not_depend_on_units():
    rng = torch.Generator().manual_seed(0)
    latents, embeddings = (torch.randn(12, n, generator=rng) for n in (6, 3))
    query = torch.randn(4, 6, generator=rng), torch.randn(4, 3, generator=rng)
    parts = np.zeros(12, np.int64)
    found = JointSearch(latents, embeddings, parts).search(*query, [0] * 4, 3)
    scaled = JointSearch(1000 * latents, embeddings / 7, parts)
    assert torch.equal(found.rows, scaled.search(1000 * query[0], query[1] / 7, [0] * 4, 3).rows)
    own = JointSearch(latents, embeddings, parts).search(latents[:4], embeddings[:4], [0] * 4, 1)
    assert own.rows[:, 0].tolist() == [0, 1, 2, 3]


def test_floors_styles_and_repeats_in_one_run(tiny_config: Config, tmp_path: Path):
    config = tiny_config
    config.noise.policy, config.noise.bank_size = "bank", 2
    config.data.num_queries, config.data.repeats, config.data.late_style = 2, 2, True
    config.reference_root = str(tmp_path / "reference")
    config.metrics.hooks, config.metrics.resamples = ["cost", "fidelity"], 50
    config.report.sheet_rows = 2
    config.baselines = ["plain", "both", "switch", "content", "other_noise", "other_precision"]
    first = main_job(config, tmp_path / "a", True, Console(quiet=True))
    results = json.loads((first / "results.json").read_text())
    found = {point["method"]: point for point in results["points"]}
    assert set(found) == {"full", "redi", *config.baselines}
    assert found["switch"]["calls"] == found["content"]["calls"] == found["full"]["calls"] == 10
    assert found["other_precision"]["psnr"] > found["other_noise"]["psnr"]
    rows = pq.read_table(first / "per_image.parquet").to_pylist()
    mine = [row["psnr"] for row in rows if row["method"] == "redi"]
    assert len(mine) == 4 and {(r["query"], r["noise"]) for r in rows} == {
        (q, n) for q in (0, 1) for n in (0, 1)
    }
    assert found["redi"]["psnr"] == pytest.approx(np.mean(mine))
    assert results["provenance"]["reference_batches"]["computed"] == 4
    config.retrieval.value_step = 6
    second = main_job(config, tmp_path / "b", True, Console(quiet=True))
    later = json.loads((second / "results.json").read_text())
    assert later["provenance"]["reference_batches"]["computed"] == 1  # plain, at other calls
    shared = {p["method"]: p for p in later["points"]}
    assert shared["full"]["seconds_network"] == found["full"]["seconds_network"]
    assert shared["content"]["psnr"] == found["content"]["psnr"]


@pytest.mark.parametrize(
    ("hooks", "baselines", "words"),
    [
        (["cost", "diversity"], [], "data.repeats=1"),
        (["cost", "stylization"], [], "data.late_style=true"),
        (["cost"], ["switch"], "data.late_style=true"),
    ],
)
def test_what_cannot_be_measured_is_refused(hooks: list[str], baselines: list[str], words: str):
    config = Config()
    config.metrics.hooks, config.baselines = hooks, baselines
    with pytest.raises(UsageError, match=words):
        wanted(config)
        check_baselines(config)


def test_points_share_a_kb_that_stores_their_levels_where_only_some_are_corrected():
    steps = ",".join(map(str, range(3, 21)))
    common = ["sampler=dpm_solver_pp", "sampling.steps=20", "kb.key_step=2"]
    common += [f"kb.value_steps=[{steps}]", "retrieval.value_step=12"]
    found = [
        compose_config("run", [*common, f"correction.calls={c}"]) for c in ("[3,5]", "[]", "[8]")
    ]
    model = model_from(found[0].model, 3.0, "")
    layouts = {
        manifest_from(c, setting_from(c), model, sampler_from(c, model)).digest for c in found
    }
    assert len(layouts) == 1
