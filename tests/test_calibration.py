"""The calibration: errors of plain samplers, in blocks that a stopped run finds again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from rich.console import Console

from redi.config import CalibrateConfig, ModelConfig
from redi.embedded.calibration import check, initial_noise, points
from redi.embedded.calibration_config import CalibrationConfig
from redi.embedded.captions import prompts
from redi.errors import UsageError
from redi.samplers import Sampler, build_sampler
from redi.samplers.converged import converged_sampler
from redi.verbs.assemble import model_from
from redi.verbs.calibrate import calibrate_job

SMALL = CalibrationConfig(
    captions=["open"],
    guidance=[1.5, 7.5],
    samplers=["dpm_solver_pp:2", "pndm"],
    calls=[3, 4],
    pictures=2,
    converged_steps=6,
    checked_steps=8,
    checked_pictures=2,
    long_calls=[],
    judged=6,
    judged_guidance=[7.5],
    judged_runs=["dpm_solver_pp@2", "ddim@3", "ddim@3+noise", "ddim@3+bfloat16"],
)


def test_errors_are_those_of_runs_made_by_hand_and_blocks_are_measured_once(tmp_path: Path) -> None:
    config = CalibrateConfig(SMALL, ModelConfig(batch_size=2), run_dir=str(tmp_path))
    calibrate_job(config, Console(quiet=True))
    table = pq.read_table(tmp_path / "points.parquet").to_pylist()
    measured = {(r["guidance"], r["sampler"], r["calls"]) for r in table}
    assert measured == {
        (scale, name, calls)
        for scale in (1.5, 7.5)
        for name, calls in (
            *(("dpm_solver_pp:2", 3), ("dpm_solver_pp:2", 4)),
            *(("pndm", 4), ("converged", 6)),  # PNDM needs 4 calls for 3 updates
        )
    }
    model = model_from(ModelConfig(batch_size=2), 7.5, "")
    predict = model.predictor(model.encode(prompts("query", 2)[1]))
    noise = initial_noise(model, 0, 2, 0)

    def latents(sampler: Sampler) -> torch.Tensor:
        return sampler.finish(sampler.initial(noise), predict).latents.double().flatten(1)

    short = latents(build_sampler("dpm_solver_pp", model.scheduler_config, 3, "trailing", 2))
    converged = latents(converged_sampler(model.scheduler_config, 6))
    error = ((short - converged).norm(dim=1) / converged.norm(dim=1)).mean()
    row = next(r for r in table if (r["guidance"], r["calls"]) == (7.5, 3))
    assert row["latent_error_converged"] == pytest.approx(float(error), rel=1e-6)
    assert row["low"] <= row["latent_error_converged"] <= row["high"] and row["pictures"] == 2

    pictures = json.loads((tmp_path / "pictures.json").read_text())
    assert [row["run"] for row in pictures] == [
        *("real scenes", "dpm_solver_pp@2", "ddim@3", "ddim@3+noise", "ddim@3+bfloat16"),
        *("ddim@3 minus dpm_solver_pp@2", "ddim@3+noise minus ddim@3"),
        "ddim@3+bfloat16 minus ddim@3",
    ]
    difference, *floors = (row["clip_score"] for row in pictures[5:])
    assert all(floor["mean"] != 0 for floor in floors) and (tmp_path / "pictures.png").is_file()
    assert 0 < abs(floors[1]["high"] - floors[1]["low"]) < floors[0]["high"] - floors[0]["low"]
    assert difference["mean"] == pytest.approx(
        pictures[2]["clip_score"]["mean"] - pictures[1]["clip_score"]["mean"]
    )
    assert difference["low"] <= difference["mean"] <= difference["high"]

    blocks = sorted(tmp_path.glob("blocks/*/*.parquet"))
    stamps = [block.stat().st_mtime_ns for block in blocks]
    blocks[0].unlink()  # as if the run had been stopped before it
    calibrate_job(config, Console(quiet=True))
    again = pq.read_table(tmp_path / "points.parquet").to_pylist()
    assert again == table
    assert [block.stat().st_mtime_ns for block in blocks[1:]] == stamps[1:]


def test_points_are_means_with_their_intervals() -> None:
    errors = np.random.default_rng(0).uniform(0.1, 0.3, 40)
    rows = [
        {
            "captions": "open",
            "guidance": 7.5,
            "sampler": "ddim",
            "calls": 5,
            "picture": i,
            "latent_error_converged": error,
        }
        for i, error in enumerate(errors)
    ]
    (point,) = points(rows).to_pylist()
    assert point["latent_error_converged"] == pytest.approx(errors.mean())
    assert point["std"] == pytest.approx(errors.std(ddof=1)) and point["pictures"] == 40
    assert point["low"] < errors.mean() < point["high"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"captions": ["half"]}, "calibration.captions has 'half'"),
        ({"samplers": ["ddmi"]}, "'ddmi' is unknown"),
        ({"samplers": ["deis:x"]}, "calibration.samplers has 'deis:x'"),
        ({"calls": []}, r"calibration.calls=\[\]"),
        ({"judged_runs": ["ddim"]}, "calibration.judged_runs has 'ddim'"),
        ({"judged": 1}, "calibration.judged=1"),
    ],
)
def test_bad_calibrations_are_refused(change: dict, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        check(replace(SMALL, **change))
