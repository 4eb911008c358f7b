"""Corrected sampling as a method of the main job."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from rich.console import Console

from redi.config import Config, CorrectionConfig, MetricsConfig
from redi.errors import UsageError
from redi.verbs.assemble import check
from redi.verbs.entries import recipe_from
from redi.verbs.run import main_job

FITTED = ["ddim:gits:analytic", "olss:levels=even", "dode:base=dpm_solver_pp:levels=late1.5"]


def corrected(tiny_config: Config, **options: object) -> Config:
    tiny_config.baselines = []
    tiny_config.data.num_queries = 6
    tiny_config.metrics = MetricsConfig(hooks=["cost", "fidelity"], resamples=50)
    tiny_config.correction = CorrectionConfig(calls=[2, 5], patches=[1], **options)  # type: ignore[arg-type]
    return tiny_config


def test_points_stand_beside_plain_samplers_with_as_many_calls(
    tiny_config: Config, tmp_path: Path
) -> None:
    config = corrected(tiny_config)
    folder = main_job(config, tmp_path / "run", True, Console(quiet=True))
    points = json.loads((folder / "results.json").read_text())["points"]
    found = [(p["method"], p["sampler"], p["calls"]) for p in points[2:]]
    assert sorted(found) == sorted(
        [(m, s, n) for n in (2, 5) for m, s in (("plain", "ddim"), ("plain", "dpm_solver_pp"))]
        + [("corrected", "ddim", n) for n in (2, 5)]
    )
    assert {p["noise"] for p in points} == {"shared"}
    for point in points:
        if point["method"] == "corrected":
            assert point["kb_size"] == 8 and point["key_step"] is None
            assert 0 < point["predicted_latent_error"] and 0 < point["latent_error"]
            assert (point["levels"][0], point["levels"][-1]) == (0, 10)
            assert len(point["parts"]) == point["calls"] == len(point["levels"]) - 1
    fitted = list((tmp_path / "kb").glob("*/fits/*.safetensors"))
    stamps = [path.stat().st_mtime_ns for path in fitted]
    assert len(fitted) == 2
    again = main_job(config, tmp_path / "again", False, Console(quiet=True))
    assert [path.stat().st_mtime_ns for path in fitted] == stamps  # fitted once, then read
    first, second = (
        [{k: v for k, v in p.items() if "seconds" not in k} for p in json.loads(text)["points"]]
        for text in ((folder / "results.json").read_text(), (again / "results.json").read_text())
    )
    assert first == second


def test_rivals_have_their_own_schedules_and_everything_is_held_against_a_converged_run(
    tiny_config: Config, tmp_path: Path
) -> None:
    config = corrected(
        tiny_config,
        against=["dpm_solver_pp:3:karras", "pndm", "ddim:leading", "unipc:late2", *FITTED],
    )
    config.correction.calls = [2, 5]
    config.metrics.converged_steps = 50
    folder = main_job(config, tmp_path / "run", True, Console(quiet=True))
    points = json.loads((folder / "results.json").read_text())["points"]
    plain = {(p["sampler"], p["calls"]): p for p in points if p["method"] == "plain"}
    # PNDM takes one call more than updates, and at least two updates
    assert set(plain) == {
        (name, n)
        for name in ("dpm_solver_pp:3:karras", "pndm", "ddim:leading", "unipc:late2", FITTED[0])
        for n in (2, 5)
        if (name, n) != ("pndm", 2)
    }
    assert plain["pndm", 5]["steps"] == 4
    for point in points:
        assert 0 < point["latent_error_median"] <= point["latent_error_p90"]
    for text in FITTED:
        for calls in (2, 5):
            (point,) = [p for p in points if (p["sampler"], p["calls"]) == (text, calls)]
            assert point["fit_calls"] > 0 < point["fit_seconds"] and point["fit_numbers"] > 0
            assert point["method"] == ("plain" if text == FITTED[0] else text.split(":")[0])
    full = next(p for p in points if p["method"] == "full")
    assert 0 < full["latent_error_converged"] < plain["ddim:leading", 5]["latent_error_converged"]


def test_the_noise_of_a_bank_has_its_own_kernels(tiny_config: Config, tmp_path: Path) -> None:
    config = corrected(tiny_config, parts=["kernel"])
    config.noise.policy, config.noise.bank_size = "bank", 2
    folder = main_job(config, tmp_path / "run", True, Console(quiet=True))
    points = json.loads((folder / "results.json").read_text())["points"]
    assert {p["noise"] for p in points} == {"bank"}
    assert all(torch.isfinite(torch.tensor(p["latent_error"])) for p in points[2:])


def test_bad_settings_are_refused_before_any_work(tiny_config: Config) -> None:
    config = corrected(tiny_config)
    config.correction.calls = [4, 11]
    with pytest.raises(UsageError, match=r"correction.calls has 11"):
        check(config)
    config.correction.calls = [4, 4]
    with pytest.raises(UsageError, match="twice"):
        recipe_from(config)
    config.correction.calls, config.correction.against = [4], ["euler_x"]
    with pytest.raises(UsageError, match="correction.against has 'euler_x'"):
        recipe_from(config)


@pytest.mark.parametrize(
    "text",
    [
        "olss:level=even",
        "dode:base=dim",
        "ddim:even:fast",
        "olss:analytic=1",
        "ddim:3",
        "dpm_solver_pp:4",
        "dpm_solver_pp:fast",
        "heun:late2",
        "ddim:late",
    ],
)
def test_a_rival_that_does_not_exist_is_refused(tiny_config: Config, text: str) -> None:
    config = corrected(tiny_config, against=[text])
    with pytest.raises(UsageError, match="order|does nothing|only ddim|lateP|unknown|after|true"):
        recipe_from(config)
