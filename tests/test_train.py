"""The recipe: resumes as if it had never stopped, and ships what plain diffusers loads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from lightning.pytorch.callbacks import ModelCheckpoint
from rich.console import Console

from redi.config import TrainConfig, TrainerConfig
from redi.embedded.autoencoder import TrainAutoencoder
from redi.embedded.training import StageConfig
from redi.errors import UsageError
from redi.metrics.evaluator import EMBEDDED_EVALUATOR, Evaluator
from redi.verbs.assemble import EMBEDDED_MODEL
from redi.verbs.engine import trainer_from
from redi.verbs.train import train

SHORT = StageConfig(steps=2, batch_size=4, steps_per_epoch=1)


def fit(folder: Path, steps: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    task = TrainAutoencoder(SHORT, seed=0)
    saver = ModelCheckpoint(folder, "last", save_top_k=1, enable_version_counter=False)
    trainer = trainer_from(
        TrainerConfig(accelerator="cpu"),
        [saver],
        max_steps=steps,
        max_epochs=-1,
        enable_checkpointing=True,
        enable_progress_bar=False,
        reload_dataloaders_every_n_epochs=1,
    )
    last = folder / "last.ckpt"
    trainer.fit(task, ckpt_path=str(last) if last.is_file() else None)
    return {name: value.clone() for name, value in task.state_dict().items()}


def test_a_resumed_run_equals_one_that_never_stopped(tmp_path: Path) -> None:
    whole = fit(tmp_path / "whole", 2)
    first = fit(tmp_path / "resumed", 1)
    resumed = fit(tmp_path / "resumed", 2)
    assert any(not torch.equal(whole[name], first[name]) for name in whole)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_all_stages_export_what_plain_diffusers_loads(tmp_path: Path) -> None:
    config = TrainConfig(
        run_dir=str(tmp_path / "train"),
        export_dir=str(tmp_path / "shipped"),
        quality_images=64,
        autoencoder=SHORT,
        diffusion=SHORT,
        evaluator=SHORT,
    )
    train(config, Console(quiet=True))
    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path / "shipped" / "emoji-scenes")
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline("a fox", num_inference_steps=2).images[0].size == (64, 64)
    assert set(Evaluator.load(tmp_path / "shipped" / "emoji-clip").accuracies) >= {"object"}
    reports = json.loads((tmp_path / "shipped" / "training.json").read_text())
    assert reports["diffusion"]["steps"] == 2 and reports["diffusion"]["samples"] == 8
    stamp = (tmp_path / "train" / "diffusion" / "report.json").stat().st_mtime_ns
    train(config, Console(quiet=True))  # finished stages are skipped
    assert (tmp_path / "train" / "diffusion" / "report.json").stat().st_mtime_ns == stamp


def test_a_stage_goes_on_from_a_finished_pipeline(tmp_path: Path) -> None:
    still = StageConfig(steps=1, batch_size=4, steps_per_epoch=1, learning_rate=0.0)
    config = TrainConfig(
        stage="diffusion",
        run_dir=str(tmp_path),
        start_from=str(EMBEDDED_MODEL),
        diffusion=still,
    )
    train(config, Console(quiet=True))
    before = StableDiffusionPipeline.from_pretrained(EMBEDDED_MODEL)
    after = StableDiffusionPipeline.from_pretrained(tmp_path / "diffusion" / "final")
    assert before.tokenizer.get_vocab() == after.tokenizer.get_vocab()
    for part in ("unet", "text_encoder", "vae"):
        theirs = getattr(before, part).float().state_dict()
        mine = getattr(after, part).state_dict()
        assert all(torch.allclose(theirs[name], mine[name], atol=1e-6) for name in theirs), part
    assert after.scheduler.config.prediction_type == "v_prediction"
    config = TrainConfig(stage="diffusion", run_dir=str(tmp_path / "b"), start_from="nowhere")
    with pytest.raises(UsageError, match="start_from='nowhere'"):
        train(config, Console(quiet=True))


def test_stages_say_what_they_need(tmp_path: Path) -> None:
    for stage, words in (("diffusion", "stage=autoencoder"), ("magic", "autoencoder, diffusion")):
        config = TrainConfig(stage=stage, run_dir=str(tmp_path))
        with pytest.raises(UsageError, match=words):
            train(config, Console(quiet=True))


def test_the_shipped_weights_are_small_and_load_in_plain_diffusers() -> None:
    files = [f for d in (EMBEDDED_MODEL, EMBEDDED_EVALUATOR) for f in d.rglob("*") if f.is_file()]
    assert sum(f.stat().st_size for f in files) < 60e6
    assert not [f for f in files if f.suffix in (".bin", ".pt", ".ckpt", ".pkl")]
    pipeline = StableDiffusionPipeline.from_pretrained(EMBEDDED_MODEL)
    assert {p.dtype for p in pipeline.unet.parameters()} == {torch.float32}
    accuracies = Evaluator.load(EMBEDDED_EVALUATOR).accuracies
    names = ("object", "background", "style", "size", "place")
    assert all(accuracies[name] >= 0.95 for name in names)
