"""`redi plan`, and the paper's own protocol on tiny weights and a small COCO folder."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from test_sources import write_coco

from redi.composition import compose_config, points
from redi.config import Config
from redi.errors import UsageError
from redi.methods.plain import Plain
from redi.models.text_to_image import TextToImageModel
from redi.verbs.plan import plan_job, planned
from redi.verbs.run import main_job


def test_a_plan_counts_shared_runs_once(tiny_config: Config, tiny_model: TextToImageModel):
    """Ten DDIM steps, key step 2: six calls after value step 6 is reached by skipping four."""
    tiny_config.baselines = ["plain", "jump", "neighbour", "other_noise"]
    tiny_config.data.num_queries, tiny_config.retrieval.value_step = 4, 6
    plan = planned([tiny_config], tiny_model)
    # full and other noise 10 each, ReDi and the jump 4 each after the key step, plain 6
    assert (plan.points, plan.query_calls, plan.pictures) == (1, 4 * (10 + 10 + 4 + 4 + 6), 4 * 6)
    rows = sum(plan.trajectories.values())
    assert rows == 8 and plan.build_calls == 8 * 10
    both = planned([tiny_config, tiny_config], tiny_model)
    assert both.build_calls == plan.build_calls  # one KB
    assert both.query_calls == plan.query_calls + 4 * (4 + 4)  # ReDi and the jump alone
    with_plain = replace(tiny_config, methods={"plain": Plain(7)})
    assert planned([with_plain], tiny_model).query_calls == plan.query_calls + 4 * 7
    tiny_config.correction.calls = [3]
    with pytest.raises(UsageError, match="leave out correction.calls"):
        planned([tiny_config], tiny_model)


def test_points_with_another_guidance_scale_need_a_kb_of_their_own(
    tiny_config: Config, tiny_model: TextToImageModel
):
    sampling = replace(tiny_config.sampling, guidance_scale=1.5)
    both = planned([tiny_config, replace(tiny_config, sampling=sampling)], tiny_model)
    assert len(both.trajectories) == 2 and both.build_calls == 2 * 8 * 10


def test_a_plan_leaves_out_what_is_there(tiny_config: Config, tiny_model: TextToImageModel):
    tiny_config.metrics.hooks, tiny_config.baselines = ["cost"], []
    main_job(tiny_config, None, True, Console(quiet=True), parent=Path(tiny_config.kb.root))
    plan = planned([tiny_config], tiny_model)
    assert plan.build_calls == 0 and list(plan.trajectories.values()) == [0]


def test_the_papers_protocol_runs_and_is_planned(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    write_coco(tmp_path / "coco")
    overrides = ["experiment=paper_sd15", "model=local", f"model.path={tiny_folder}"]
    overrides += [f"data.root={tmp_path / 'coco'}", "kb.size=4", "kb.shard_size=2"]
    overrides += ["data.num_queries=2", "metrics.hooks=[cost,fidelity]", "model.batch_size=2"]
    overrides += [f"kb.root={tmp_path / 'kb'}", f"reference_root={tmp_path / 'ref'}"]
    configs = [compose_config("run", override) for override in points(overrides)]
    assert [config.retrieval.value_step for config in configs] == [20, 25, 30, 35, 40]
    assert all(config.sampling.steps == 50 and config.kb.key_step == 10 for config in configs)
    plan_job(configs, 2, Console(width=150))
    told = capsys.readouterr().out
    # 51 calls of PNDM; after value steps 20 to 40 at first order again
    assert "trajectories to make            4" in told and "part-$I" in told
    assert "network calls to make them      204" in told
    folder = main_job(configs[3], tmp_path / "run", True, Console(quiet=True))
    found = {p["method"]: p for p in json.loads((folder / "results.json").read_text())["points"]}
    assert found["full"]["calls"] == 51 and found["redi"]["calls"] == 26
    assert set(found) == {"full", "redi", "plain", "jump", "random", "prompt"}
