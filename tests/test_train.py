"""The recipe: resumes as if it had never stopped, and ships what plain diffusers loads."""

from __future__ import annotations

import json
import pkgutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from rich.console import Console
from safetensors.torch import load_file

from redi.embedded import training
from redi.embedded.autoencoder import TrainAutoencoder, new_autoencoder
from redi.embedded.checkpoint import Checkpoints
from redi.embedded.diffusion import TrainDiffusion
from redi.embedded.scenes import ATTRIBUTES
from redi.embedded.stage_config import TrainConfig
from redi.embedded.stream import PIECE, Painters, Span, paint
from redi.embedded.tokenizer import train_tokenizer
from redi.embedded.training import StageConfig, fit, learning_rate, rows_of
from redi.errors import UsageError
from redi.metrics.evaluator import EMBEDDED_EVALUATOR, Evaluator
from redi.verbs.assemble import EMBEDDED_MODEL
from redi.verbs.train import train

QUIET = Console(quiet=True)
TOKENIZER = train_tokenizer()
SHORT = StageConfig(
    steps=2, batch_size=4, warmup_steps=1, decay_steps=1, pool=8, passes=2, save_every=1
)


class Stopped(Exception):
    """Stands for a killed process."""


def fitted(
    folder: Path, config: StageConfig, kind: str = "autoencoder", stop: int | None = None
) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    if kind == "autoencoder":
        stage: training.TrainingStage = TrainAutoencoder(config, seed=0)
    else:
        stage = TrainDiffusion(config, 0, TOKENIZER, new_autoencoder())

    def report(step: int, loss: float, rate: float) -> None:
        pass

    if stop is not None:
        before = stage.after_step

        def after_step(step: int) -> None:
            if step > stop:
                raise Stopped
            before(step)

        stage.after_step = after_step  # type: ignore[method-assign]
        with pytest.raises(Stopped):
            fit(stage, Checkpoints(folder, {}), folder, True, report)
    else:
        fit(stage, Checkpoints(folder, {}), folder, True, report)
    return {name: value.clone() for name, value in stage.state_dict().items()}


def fitted_report(folder: Path, config: StageConfig) -> dict[str, object]:
    torch.manual_seed(0)
    stage = TrainAutoencoder(config, seed=0)
    report = fit(stage, Checkpoints(folder, {}), folder, True, lambda *_: None)
    return {name: value for name, value in report.items() if name != "seconds"}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def told(folder: Path) -> list[list[str]]:
    """Steps and losses of a run's log, and the names of its sheets."""
    rows = [line.split(",")[:2] for line in (folder / "loss.csv").read_text().split()]
    return [*rows, sorted(path.name for path in (folder / "sheets").iterdir())]


def test_a_resumed_run_equals_one_that_never_stopped(tmp_path: Path) -> None:
    config = replace(SHORT, steps=5, save_every=2)
    whole = fitted(tmp_path / "whole", config)
    first = fitted(tmp_path / "resumed", config, stop=3)  # one step after the last checkpoint
    resumed = fitted(tmp_path / "resumed", config)
    assert not same(whole, first) and same(whole, resumed)
    assert told(tmp_path / "whole") == told(tmp_path / "resumed")
    assert [row[0] for row in told(tmp_path / "whole")[:-1]] == ["step", "2", "4", "5"]


@pytest.mark.parametrize("last", ["loss", "sheet", "file", "checkpoint"])
def test_a_run_killed_around_a_checkpoint_leaves_no_gap(tmp_path: Path, last: str) -> None:
    config = replace(SHORT, steps=3, save_every=2)
    owner, _, name = {
        "loss": "redi.embedded.training._Log.add",
        "sheet": "redi.embedded.training._save_sheet",
        "file": "redi.embedded.checkpoint.write_durably",  # the first of two
        "checkpoint": "redi.embedded.training.Checkpoints.save",
    }[last].rpartition(".")
    fitted(tmp_path / "whole", config)
    with pytest.MonkeyPatch.context() as patch:
        original = pkgutil.resolve_name(f"{owner}.{name}")

        def then_stop(*given: object) -> None:
            original(*given)
            raise Stopped

        patch.setattr(f"{owner}.{name}", then_stop)
        with pytest.raises(Stopped):
            fitted(tmp_path / "resumed", config)
    resumed = fitted_report(tmp_path / "resumed", config)
    assert told(tmp_path / "whole") == told(tmp_path / "resumed")
    for kept in ("constant", "last"):
        states = [load_file(tmp_path / n / f"{kept}.safetensors") for n in ("whole", "resumed")]
        assert same(*states)
    assert resumed == fitted_report(tmp_path / "whole", config)  # nothing left to do: no NaN


def small_unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(32, 32),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=128,
    )


def test_the_averaged_weights_resume_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("redi.embedded.diffusion.new_unet", small_unet)
    monkeypatch.setattr("redi.embedded.diffusion.SHEET", 12)
    config = replace(SHORT, steps=3, batch_size=2, pool=4, save_every=2)
    whole = fitted(tmp_path / "whole", config, "diffusion")
    fitted(tmp_path / "resumed", config, "diffusion", stop=2)
    resumed = fitted(tmp_path / "resumed", config, "diffusion")
    assert any(name.startswith("average.") for name in whole) and same(whole, resumed)


def test_scenes_painted_ahead_are_the_same_scenes() -> None:
    with Painters(1) as painters:
        span = Span("train", 3, PIECE + 5, 0)
        painters.begin(span)
        ahead = list(painters.batches(span))
    at_once = paint(span)
    assert [len(batch.scenes) for batch in ahead] == [PIECE, 5]
    assert np.array_equal(np.concatenate([batch.pixels for batch in ahead]), at_once.pixels)
    assert [text for batch in ahead for text in batch.captions] == at_once.captions
    assert [scene for batch in ahead for scene in batch.scenes] == at_once.scenes
    assert list(Painters().batches(span))[1].captions == ahead[1].captions


def test_a_run_is_extended_from_before_its_learning_rate_fell(tmp_path: Path) -> None:
    long = replace(SHORT, steps=5, decay_steps=2)
    whole = fitted(tmp_path / "whole", long)
    fitted(tmp_path / "extended", replace(SHORT, steps=3, decay_steps=2))
    assert same(whole, fitted(tmp_path / "extended", long))
    other = replace(long, learning_rate=1e-4)  # a checkpoint of other settings is not used
    assert same(fitted(tmp_path / "other", other), fitted(tmp_path / "extended", other))


def test_every_step_has_its_own_rows_and_a_pool_is_used_as_often_as_asked() -> None:
    config = StageConfig(batch_size=4, pool=8, passes=3)
    seen = [rows_of(config, 0, step) for step in range(12)]
    assert [pool for pool, _ in seen] == [0] * 6 + [1] * 6
    for one_pass in range(0, 12, 2):
        assert sorted([*seen[one_pass][1], *seen[one_pass + 1][1]]) == list(range(8))
    assert seen[0][1].tolist() == rows_of(config, 0, 0)[1].tolist()
    assert seen[0][1].tolist() != rows_of(config, 1, 0)[1].tolist()
    schedule = StageConfig(steps=100, learning_rate=1.0, warmup_steps=10, decay_steps=20)
    rates = [learning_rate(schedule, step) for step in range(100)]
    assert rates[0] == 0.1 and rates[9:80] == [1.0] * 71 and rates[99] == 0.05


def test_all_stages_export_what_plain_diffusers_loads(tmp_path: Path) -> None:
    config = TrainConfig(
        run_dir=str(tmp_path / "train"),
        export_dir=str(tmp_path / "shipped"),
        quality_images=64,
        autoencoder=SHORT,
        diffusion=replace(SHORT, save_every=3),  # no sheet
        evaluator=SHORT,
    )
    train(config, QUIET)
    shipped = tmp_path / "shipped"
    pipeline = StableDiffusionPipeline.from_pretrained(shipped / "emoji-scenes")
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline("a fox", num_inference_steps=2).images[0].size == (64, 64)
    assert set(Evaluator.load(shipped / "emoji-clip").accuracies) >= {"object", "second"}
    reports = json.loads((shipped / "emoji-scenes" / "training.json").read_text())
    assert reports["diffusion"]["steps"] == 2 and reports["diffusion"]["samples"] == 8
    report = tmp_path / "train" / "diffusion" / "report.json"
    stamp, weights = report.stat().st_mtime_ns, weights_of(shipped)
    train(config, QUIET)  # finished stages are skipped
    assert report.stat().st_mtime_ns == stamp and same(weights, weights_of(shipped))
    assert sorted(p.name for p in shipped.iterdir()) == ["emoji-clip", "emoji-scenes"]
    config.diffusion = replace(config.diffusion, learning_rate=1e-3)
    config.stage = "diffusion"
    train(config, QUIET)  # a finished stage of another recipe is not
    assert report.stat().st_mtime_ns != stamp

    # an export that stops half way leaves the shipped weights as they were
    def stops(*_: object, **__: object) -> None:
        raise Stopped

    config.stage = "export"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("redi.verbs.train.shutil.copytree", stops)
        with pytest.raises(Stopped):
            train(config, QUIET)
    assert same(weights, weights_of(shipped))
    train(config, QUIET)
    assert not same(weights, weights_of(shipped))

    # and a recipe goes on from what was exported
    still = replace(SHORT, steps=1, learning_rate=0.0, save_every=2)
    onward = replace_all(config, still, str(tmp_path / "onward"), str(shipped))
    train(onward, QUIET)
    before = StableDiffusionPipeline.from_pretrained(shipped / "emoji-scenes")
    after = StableDiffusionPipeline.from_pretrained(tmp_path / "onward" / "diffusion" / "final")
    theirs, mine = before.unet.float().state_dict(), after.unet.state_dict()
    assert all(torch.allclose(theirs[name], mine[name], atol=1e-6) for name in theirs)
    old, new = before.tokenizer.get_vocab(), after.tokenizer.get_vocab()
    embeddings = [pipe.text_encoder.get_input_embeddings().weight for pipe in (before, after)]
    assert torch.allclose(embeddings[0][old["fox</w>"]], embeddings[1][new["fox</w>"]], atol=1e-6)


def weights_of(shipped: Path) -> dict[str, torch.Tensor]:
    return load_file(shipped / "emoji-scenes" / "unet" / "diffusion_pytorch_model.safetensors")


def replace_all(config: TrainConfig, stage: StageConfig, run: str, start: str) -> TrainConfig:
    stages = {"autoencoder": stage, "diffusion": stage, "evaluator": stage}
    train(replace(config, stage="autoencoder", run_dir=run, start_from=start, **stages), QUIET)
    return replace(config, stage="diffusion", run_dir=run, start_from=start, **stages)


def test_stages_say_what_they_need(tmp_path: Path) -> None:
    for settings, words in (
        ({"stage": "diffusion"}, "stage=autoencoder"),
        ({"stage": "magic"}, "autoencoder, diffusion"),
        ({"stage": "autoencoder", "start_from": "nowhere"}, "start_from='nowhere'"),
        ({"precision": "half"}, "precision='half'"),
        ({"device": "tpu"}, "device='tpu'"),
    ):
        with pytest.raises(UsageError, match=words):
            train(TrainConfig(run_dir=str(tmp_path), **settings), QUIET)  # type: ignore[arg-type]


def test_the_shipped_weights_are_small_and_load_in_plain_diffusers() -> None:
    files = [f for d in (EMBEDDED_MODEL, EMBEDDED_EVALUATOR) for f in d.rglob("*") if f.is_file()]
    assert sum(f.stat().st_size for f in files) < 60e6
    assert not [f for f in files if f.suffix in (".bin", ".pt", ".ckpt", ".pkl")]
    pipeline = StableDiffusionPipeline.from_pretrained(EMBEDDED_MODEL)
    assert {p.dtype for p in pipeline.unet.parameters()} == {torch.float32}
    accuracies = Evaluator.load(EMBEDDED_EVALUATOR).accuracies
    assert set(accuracies) == {*ATTRIBUTES, "all"}
    assert all(accuracy >= 0.95 for accuracy in accuracies.values())
