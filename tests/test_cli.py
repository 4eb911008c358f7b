"""The command line: one sentence for bad input, a whole run, a sweep that resumes."""

from __future__ import annotations

import errno
import json
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors import SafetensorError

from redi import cli
from redi.composition import checked_arguments, compose_config
from redi.embedded.scenes import ATTRIBUTES
from redi.errors import UsageError
from redi.files import locked, write_durably

SMALL = [
    "kb.size=8",
    "kb.shard_size=8",
    "kb.key_step=2",
    "sampling.steps=8",
    "data.num_queries=8",
    "model.batch_size=8",
    "metrics.allow_few=true",
    "metrics.real_images=128",
    "metrics.resamples=100",
    "report.sheet_rows=2",
]


@pytest.fixture(autouse=True)
def in_a_new_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def redi(*arguments: str) -> None:
    sys.argv = ["redi", *arguments]
    cli.main()


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as stopped:
        redi(*arguments)
    assert stopped.value.code == 2
    message = capsys.readouterr().err
    assert message.startswith("redi: ") and message.count("\n") == 1
    return message


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["kb.key_step=30", "retrieval.value_step=30"], ["kb.key_step=30", "value_step=30"]),
        (["retrieval.value_step=41"], ["retrieval.value_step=41", "sampling.steps=40"]),
        (["kb.key_step=0"], ["kb.key_step=0", "at least 1"]),
        (["kb.key_steps=[4,12]"], ["kb.key_step=8", "kb.key_steps=[4, 12]", "add it"]),
        (["kb.key_steps=[0,8]"], ["kb.key_step=0", "at least 1"]),
        (["kb.key_steps=[8,30]", "retrieval.value_step=20"], ["kb.key_step=30", "value_step=20"]),
        (["retrieval.neighbours=97"], ["retrieval.neighbours=97", "kb.size=96"]),
        (["retrieval.value_step=20", "retrieval.skip_length=5"], ["only one"]),
        (["retrieval.skip_length=33"], ["retrieval.skip_length=33", "at most 32"]),
        (["sampler=sundial"], ["sampler", "sundial", "ddim", "dpm_solver_pp"]),
        (["sampler.name=euler_ancestral"], ["stochastic", "fresh noise"]),
        (["sampler.order=3"], ["sampler.order=3", "sampler=ddim", "deis"]),
        (["data=coco2014", "data.root=nowhere"], ["data.root='nowhere'", "captions_val2014.json"]),
        (["kb.sise=4"], ["sise"]),
        (["kb.size=many"], ["many"]),
        (["+new=1"], ["new"]),
        (["noise.policy=fixed"], ["noise.policy='fixed'", "per_prompt"]),
        (["noise.bank_size=4"], ["noise.bank_size=4", "noise.policy=bank"]),
        (["data.num_queries=1"], ["data.num_queries=1"]),
        (["model=local", "model.path=nowhere"], ["model.path='nowhere'", "not a directory"]),
        (["model=analytic"], ["model=emoji"]),
        (["model.dtype=float8"], ["model.dtype='float8'", "bfloat16"]),
        (["metrics.hooks=[cost,fud]"], ["fud", "distribution"]),
        (["metrics.hooks=[fidelity]"], ["cost"]),
        (["baselines=[magic]"], ["magic", "neighbour"]),
        (["data.num_queries=8"], ["data.num_queries=8", "metrics.allow_few=true"]),
        (["data=file", "data.kb_file=a", "data.query_file=b"], ["data.query_file='b'"]),
        (["kb.value_steps=[4]"], ["kb.value_steps", "kb.key_step=8"]),
        (["trainer.devices=0"], ["trainer.devices=0"]),
        (["-m", "kb.key_step=8,50"], ["kb.key_step=50"]),
        (["-m", "sampler=ddim,ddmi"], ["sampler='ddmi'", "did you mean 'ddim'?"]),
        (["sampler=ddmi"], ["sampler='ddmi' is unknown (did you mean 'ddim'?)"]),
        (["theory=foo"], ["key 'theory' is unknown"]),
        (["kb.sise=4"], ["did you mean 'kb.size'?"]),
        ([""], ["verb ''"]),
        (["kb.size=96", ""], ["'' is not key=value"]),
        (["=5"], ["'=5' is not key=value"]),
        (["--foo"], ["option '--foo' is unknown"]),
        (["--multirum"], ["did you mean '--multirun'?"]),
        (["model=local"], ["model=local needs model.path"]),
        (["seed=-1"], ["seed=-1 is too small: use at least 0"]),
        (["data.seed=-1"], ["data.seed=-1 is too small"]),
        (["noise.seed=5000000000"], ["noise.seed=5000000000 is too large: use at most 4294967295"]),
        (["sampling.steps=100000"], ["sampling.steps=100000 is too large: use at most 1000"]),
        (["sampling.guidance_scale=nan"], ["guidance_scale=nan is not a number: use 0 to 100"]),
        (["sampling.guidance_scale=inf"], ["guidance_scale=inf is too large"]),
        (["sampling.guidance_scale=1e38"], ["guidance_scale=1e+38 is too large: use at most 100"]),
        (["retrieval.skip_share=nan"], ["retrieval.skip_share=nan is not a number"]),
        (["correction.widths=[1.0,nan]"], ["correction.widths has nan"]),
        (["correction.calls=[0]"], ["correction.calls has 0"]),
        (["metrics.converged_steps=0"], ["metrics.converged_steps=0 is too small"]),
        (["metrics.resamples=0"], ["metrics.resamples=0 is too small: use at least 2"]),
        (["report.sheet_rows=-1"], ["report.sheet_rows=-1 is too small"]),
        (["trainer.threads=-1"], ["trainer.threads=-1 is too small: use at least 1"]),
        (["model.size=3"], ["model.size=3 is too small"]),
        (["run_dir=" + 300 * "a"], ["name of 300 bytes: use at most 255"]),
        (["kb.root=/dev/null/kb"], ["kb.root='/dev/null/kb'", "below the file '/dev/null'"]),
        (["run_dir=/proc/run"], ["run_dir='/proc/run' cannot be written"]),
        (["reference_root="], ["reference_root='' names no folder"]),
        (["-m", "kb.key_step=8,[2"], ["kb.key_step=8,[2"]),
    ],
)
def test_bad_input_is_refused_in_one_sentence(
    overrides: list[str], words: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    message = refusal(capsys, *overrides)
    assert all(word in message for word in words), message
    assert not (tmp_path / "outputs").exists()  # before any work


def test_what_a_machine_or_an_account_lacks_is_said_before_any_work(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    message = refusal(capsys, "trainer.accelerator=gpu", "trainer.devices=2")
    assert "trainer.devices=2 needs as many GPUs and PyTorch finds 1" in message
    online = ["logger=wandb", "logger.mode=online"]
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert "logger.mode=online finds no login" in refusal(capsys, *online)
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password 0123456789\n")
    assert "seed=-1" in refusal(capsys, *online, "seed=-1")  # that is, the login is found


def test_a_full_disk_is_one_sentence_wherever_it_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = "Error while serializing: I/O error: No space left on device (os error 28)"

    def full(path: Path) -> None:
        raise SafetensorError(told)

    with pytest.raises(
        UsageError, match="'.*kept.safetensors' cannot be written, the disk is full"
    ):
        write_durably(tmp_path / "kept.safetensors", full)
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="a file stands where a folder has to be"):
        with locked(tmp_path / "file" / "lock"):
            pass
    error = OSError(errno.EACCES, "Permission denied", "kept")
    assert cli._told(error).startswith("'kept': Permission denied: put that right")


def test_values_in_any_script_are_values(tmp_path: Path) -> None:
    given = ["run_dir=ünï", "kb.root=two words", "sampling.negative_prompt=猫"]
    given += ["retrieval.value_step=20", "data.kb_file=a (1).txt"]
    config = compose_config("run", checked_arguments("run", given))
    assert (config.run_dir, config.kb.root) == ("ünï", "two words")
    assert (config.sampling.negative_prompt, config.data.kb_file) == ("猫", "a (1).txt")
    assert config.retrieval.value_step == 20


def test_unknown_verbs_and_actions_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert "kb, evaluate, train" in refusal(capsys, "build")
    assert "build, info, verify" in refusal(capsys, "kb", "destroy")
    assert "one directory" in refusal(capsys, "report")


def test_help_names_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    redi("--help")
    text = capsys.readouterr().out
    assert all(verb in text for verb in cli.VERBS)


def test_the_calibration_is_an_experiment_too(monkeypatch: pytest.MonkeyPatch) -> None:
    jobs: list[tuple[str, list[str]]] = []
    monkeypatch.setattr(cli, "_hydra", lambda name, rest, job: jobs.append((name, rest)))
    for words in (["calibrate", "threads=1"], ["experiment=calibration", "threads=1"]):
        monkeypatch.setattr(sys, "argv", ["redi", *words])
        cli.main()
    assert jobs == [("calibrate", ["threads=1"])] * 2


def test_the_configuration_can_be_listed(capsys: pytest.CaptureFixture[str]) -> None:
    redi("run", "--cfg", "job", "kb.size=12")
    assert "size: 12" in capsys.readouterr().out


def test_the_main_job_and_everything_that_follows_it(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    redi(*SMALL, "run_dir=first")
    shown = capsys.readouterr().out
    assert "ReDi" in shown and "same sampler" in shown
    run = tmp_path / "first"
    results = json.loads((run / "results.json").read_text())
    points = {point["method"]: point for point in results["points"]}
    assert list(points) == ["full", "redi", "plain", "jump", "random", "prompt", "neighbour"]
    assert points["full"]["calls"] == 8 and points["redi"]["calls"] == points["plain"]["calls"] == 4
    assert points["neighbour"]["calls"] == 2 and points["redi"]["value_step"] == 6
    assert "psnr" not in points["full"]
    for point in points.values():
        assert {f"prompt_fidelity.{name}" for name in ATTRIBUTES} <= set(point)
        assert point["fd_scene_low"] <= point["fd_scene"] <= point["fd_scene_high"]
    for name in ("config_hash", "versions", "model_hash", "kb_hash"):
        assert results["provenance"][name]
    table = pq.read_table(run / "per_image.parquet").to_pylist()
    assert len(table) == 7 * 8
    mean = sum(row["psnr"] for row in table if row["method"] == "redi") / 8
    assert abs(mean - points["redi"]["psnr"]) < 1e-9
    assert not {r["neighbour_prompt"] for r in table} & {r["prompt"] for r in table}
    for picture in ("sheet.png", "pareto.png"):
        assert Image.open(run / picture).size[0] > 300

    stamp = (run / "results.json").stat().st_mtime_ns
    redi(*SMALL, "run_dir=first")
    assert "Already finished" in capsys.readouterr().out
    assert (run / "results.json").stat().st_mtime_ns == stamp
    assert "already holds another run" in refusal(capsys, *SMALL, "run_dir=first", "seed=1")

    redi("kb", "verify", *SMALL)
    assert "as they were written" in capsys.readouterr().out
    redi("kb", "info", *SMALL)
    assert "8 in 1 shards" in capsys.readouterr().out
    assert "kb.size=16 is more than the 8" in refusal(capsys, "evaluate", *SMALL, "kb.size=16")

    shard = next((tmp_path / "outputs" / "kb").glob("*/step_0002/00000-*.safetensors"))
    original = shard.read_bytes()
    shard.write_bytes(original[:-1] + bytes([original[-1] ^ 1]))
    assert "step_0002" in refusal(capsys, *SMALL, "seed=2")
    shard.write_bytes(original)

    sweep = ["-m", *SMALL, "retrieval.value_step=6,8", "run_dir=sweep"]  # 8: the last step
    redi(*sweep)
    done = sorted((tmp_path / "sweep").glob("*/results.json"))
    assert len(done) == 2
    assert not list((tmp_path / "sweep").glob("*/pareto.png"))  # the summary has it
    done[0].unlink()  # as if it had been interrupted
    stamp = done[1].stat().st_mtime_ns
    redi(*sweep)
    assert done[0].is_file() and done[1].stat().st_mtime_ns == stamp
    rows = pq.read_table(tmp_path / "sweep" / "points.parquet").to_pylist()
    assert len({row["run"] for row in rows}) == 2 and len(rows) == 2 * 7
    redi("report", "sweep")
    assert (tmp_path / "sweep" / "pareto.png").is_file()


def test_theory_takes_its_own_group_and_overrides(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    small = ["queries=12", "samplers=[ddim]", "theory=quick", "theory.steps=10"]
    small += ["theory.value_steps=[5,8]", "theory.correction_calls=[2]", "run_dir=t"]
    redi("theory", *small)
    assert "Retrieval-corrected" in capsys.readouterr().out
    found = json.loads((tmp_path / "t" / "results.json").read_text())["theory"]
    assert found["config"]["steps"] == 10 and list(found["corrected"]) == ["2"]
    assert found["certificate"]["ddim"]["violations"] == 0
    assert found["corrected"]["2"]["violations"] == 0
    message = refusal(capsys, "theory", *small, "theory.correction_calls=[11]")
    assert "theory.correction_calls has 11" in message
