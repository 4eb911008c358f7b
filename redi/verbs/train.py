"""`redi train`: the embedded model from nothing, stage by stage, each resumable."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from rich.console import Console

from redi.config import TrainConfig
from redi.embedded.atlas import ASSETS
from redi.embedded.autoencoder import TrainAutoencoder, finish
from redi.embedded.diffusion import TrainDiffusion
from redi.embedded.evaluator import TrainEvaluator
from redi.embedded.evaluator import finish as finish_evaluator
from redi.embedded.tokenizer import save_tokenizer
from redi.embedded.training import StageConfig, TrainingStage
from redi.errors import UsageError
from redi.files import write_json
from redi.reading import read_json
from redi.verbs.engine import progress_bar, trainer_from

STAGES = ("autoencoder", "diffusion", "evaluator", "export")


def train(config: TrainConfig, console: Console) -> None:
    """Run one stage or all; a finished stage is skipped, an interrupted one goes on."""
    if config.stage not in ("all", *STAGES):
        known = ", ".join(("all", *STAGES))
        raise UsageError(f"stage={config.stage!r} is unknown; use one of {known}")
    if config.trainer.threads:
        torch.set_num_threads(config.trainer.threads)
    root = Path(config.run_dir)
    for stage in STAGES if config.stage == "all" else (config.stage,):
        if stage == "export":
            export(root, ASSETS if config.export_dir is None else Path(config.export_dir), console)
            continue
        done = root / stage / "report.json"
        if done.is_file():
            console.print(f"Stage {stage} is finished: {done.parent}")
            continue
        torch.manual_seed(config.seed)
        report = _RUN[stage](config, root, console)
        write_json(done, report)
        console.print(f"Stage {stage} finished: {report}")


def _autoencoder(config: TrainConfig, root: Path, console: Console) -> dict[str, Any]:
    folder = root / "autoencoder"
    task = TrainAutoencoder(config.autoencoder, config.seed, folder / "sheets")
    report = _fit(task, config.autoencoder, config, folder, console)
    network = task.autoencoder.cpu().float()
    report |= finish(network, config.quality_images)
    network.save_pretrained(folder / "final")
    return report


def _diffusion(config: TrainConfig, root: Path, console: Console) -> dict[str, Any]:
    folder, latent = root / "diffusion", root / "autoencoder" / "final"
    if config.start_from is None and not latent.is_dir():
        raise UsageError(f"stage=diffusion needs {str(latent)!r}: run stage=autoencoder first")
    sheets = folder / "sheets"
    if config.start_from is None:
        tokenizer = save_tokenizer(folder / "tokenizer")
        autoencoder = AutoencoderKL.from_pretrained(latent)
        task = TrainDiffusion(config.diffusion, config.seed, tokenizer, autoencoder, sheets)
    else:
        task = _continued(Path(config.start_from), config, sheets)
    report = _fit(task, config.diffusion, config, folder, console)
    task.cpu().pipeline().save_pretrained(folder / "final")
    return report


def _continued(start: Path, config: TrainConfig, sheets: Path) -> TrainDiffusion:
    """The diffusion stage with all parts of a finished pipeline."""
    if not (start / "model_index.json").is_file():
        raise UsageError(
            f"start_from={str(start)!r} is not a pipeline folder: name one that holds a "
            "model_index.json, or leave it unset to train from nothing"
        )
    known = StableDiffusionPipeline.from_pretrained(start)
    vae = known.vae.float()
    task = TrainDiffusion(config.diffusion, config.seed, known.tokenizer, vae, sheets)
    task.start_with(known.text_encoder.float(), known.unet.float())
    return task


def _evaluator(config: TrainConfig, root: Path, console: Console) -> dict[str, Any]:
    folder = root / "evaluator"
    tokenizer = save_tokenizer(folder / "tokenizer")
    task = TrainEvaluator(config.evaluator, config.seed, tokenizer, folder / "sheets")
    report = _fit(task, config.evaluator, config, folder, console)
    network = task.evaluator.cpu().float()
    accuracies = finish_evaluator(network, tokenizer, folder / "final", config.quality_images)
    return report | {"accuracy": accuracies}


_RUN = {"autoencoder": _autoencoder, "diffusion": _diffusion, "evaluator": _evaluator}


def _fit(
    task: TrainingStage, stage: StageConfig, config: TrainConfig, folder: Path, console: Console
) -> dict[str, Any]:
    """Fit from the last checkpoint where there is one."""
    checkpoint = folder / "last.ckpt"
    resumed = checkpoint.is_file()
    console.print(f"{'Resuming' if resumed else 'Starting'} {folder.name}: {stage.steps} steps")
    trainer = trainer_from(
        config.trainer,
        [
            progress_bar(folder.name),
            ModelCheckpoint(
                folder,
                filename="last",
                save_top_k=1,
                every_n_epochs=1,
                enable_version_counter=False,
            ),
        ],
        max_steps=stage.steps,
        max_epochs=-1,
        precision=config.precision,
        logger=CSVLogger(folder, "log", version=0),
        enable_checkpointing=True,
        reload_dataloaders_every_n_epochs=1,
        log_every_n_steps=20,
        gradient_clip_val=1.0,
    )
    start = time.time()
    trainer.fit(task, ckpt_path=str(checkpoint) if resumed else None)
    return {
        "steps": stage.steps,
        "samples": stage.steps * stage.batch_size * trainer.world_size,
        "seconds_since_last_resume": round(time.time() - start),
        "loss": float(trainer.callback_metrics["loss_epoch"]),
    }


def export(root: Path, target: Path, console: Console) -> None:
    """Write the finished weights as they ship: UNet in half precision, the small rest in full."""
    for stage in ("diffusion", "evaluator"):
        if not (root / stage / "final").is_dir():
            raise UsageError(f"stage=export needs {str(root / stage / 'final')!r}: run stage=all")
    pipeline = StableDiffusionPipeline.from_pretrained(root / "diffusion" / "final")
    pipeline.unet.half()
    pipeline.save_pretrained(target / "emoji-scenes", safe_serialization=True)
    for path in (target / "emoji-scenes").rglob("*.json"):
        content = read_json(path, "the configuration")
        if isinstance(content, dict) and content.pop("_name_or_path", None):
            write_json(path, content)  # where it was trained is nobody's business
    final, shipped = root / "evaluator" / "final", target / "emoji-clip"
    shipped.mkdir(parents=True, exist_ok=True)
    for file in final.iterdir():
        (shipped / file.name).write_bytes(file.read_bytes())
    found = [root / stage / "report.json" for stage in STAGES[:3]]
    reports = {path.parent.name: read_json(path, "the report") for path in found if path.is_file()}
    write_json(target / "training.json", reports)
    size = sum(f.stat().st_size for f in target.rglob("*") if f.is_file())
    console.print(f"Exported to {target}: {size / 1e6:.1f} MB in all")
