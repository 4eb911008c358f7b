"""`redi train`: the embedded model, stage by stage, each resumable."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from rich.console import Console
from transformers import CLIPModel, CLIPTokenizer

from redi.embedded.atlas import ASSETS
from redi.embedded.autoencoder import TrainAutoencoder, finish
from redi.embedded.checkpoint import Checkpoints
from redi.embedded.diffusion import TrainDiffusion
from redi.embedded.evaluator import TrainEvaluator
from redi.embedded.evaluator import finish as finish_evaluator
from redi.embedded.stage_config import TrainConfig
from redi.embedded.stream import Painters, domain_hash
from redi.embedded.tokenizer import save_tokenizer
from redi.embedded.training import StageConfig, TrainingStage, fit
from redi.errors import UsageError
from redi.files import write_json
from redi.reading import read_json, sha256
from redi.verbs.folders import check_folder

STAGES = ("autoencoder", "diffusion", "evaluator", "export")
MODEL, EVALUATOR = "emoji-scenes", "emoji-clip"


def train(config: TrainConfig, console: Console) -> None:
    """Run one stage or all; a finished stage is skipped, an interrupted one goes on."""
    if config.stage not in ("all", *STAGES):
        known = ", ".join(("all", *STAGES))
        raise UsageError(f"stage={config.stage!r} is unknown; use one of {known}")
    if config.precision not in ("float32", "bf16-mixed"):
        raise UsageError(
            f"precision={config.precision!r} is unknown; use one of float32, bf16-mixed"
        )
    check_folder("run_dir", config.run_dir)
    if config.export_dir is not None:
        check_folder("export_dir", config.export_dir)
    if config.threads:
        torch.set_num_threads(config.threads)
    root = Path(config.run_dir)
    for stage in STAGES if config.stage == "all" else (config.stage,):
        if stage == "export":
            export(root, ASSETS if config.export_dir is None else Path(config.export_dir), console)
            continue
        torch.manual_seed(config.seed)
        identity = _identity(config, stage, root)
        done = root / stage / "report.json"
        if done.is_file() and read_json(done, "the report")["recipe"] == identity:
            console.print(f"Stage {stage} is finished: {done.parent}")
            continue
        report = _RUN[stage](config, root, console)
        write_json(done, report | {"recipe": identity})
        console.print(f"Stage {stage} finished: {report}")


def _identity(config: TrainConfig, stage: str, root: Path) -> dict[str, Any]:
    """All that decides a stage's weights: its settings, and the content of what it starts from."""
    settings = asdict(getattr(config, stage))
    identity = _origin(config, stage, root) | {"stage": settings}
    return json.loads(json.dumps(identity | {"quality_images": config.quality_images}))


def _origin(config: TrainConfig, stage: str, root: Path) -> dict[str, Any]:
    folders = {}
    if config.start_from is not None:
        folders["start_from"] = _start(config, EVALUATOR if stage == "evaluator" else MODEL)
    if stage == "diffusion":
        folders["autoencoder"] = _autoencoder_folder(root)
    content = {name: _content(folder) for name, folder in folders.items()}
    return {
        "seed": config.seed,
        "precision": config.precision,
        "domain": domain_hash(),
        **content,
    }


def _content(folder: Path) -> dict[str, str]:
    files = sorted(f for f in folder.rglob("*") if f.suffix in (".json", ".safetensors"))
    return {str(file.relative_to(folder)): sha256(file) for file in files}


def _start(config: TrainConfig, name: str) -> Path:
    folder = Path(str(config.start_from)) / name
    needed = "model_index.json" if name == MODEL else "config.json"
    if not (folder / needed).is_file():
        raise UsageError(
            f"start_from={config.start_from!r} does not hold {name}/{needed}: name a folder that "
            "'redi train stage=export' wrote, or leave it unset to train from nothing"
        )
    return folder


def _autoencoder_folder(root: Path) -> Path:
    folder = root / "autoencoder" / "final"
    if not folder.is_dir():
        raise UsageError(f"stage=diffusion needs {str(folder)!r}: run stage=autoencoder first")
    return folder


def _autoencoder(config: TrainConfig, root: Path, console: Console) -> dict[str, Any]:
    folder = root / "autoencoder"
    task = TrainAutoencoder(config.autoencoder, config.seed)
    if config.start_from is not None:
        vae = AutoencoderKL.from_pretrained(_start(config, MODEL) / "vae")
        task.start_with(vae.float())
    report = _fit(task, config.autoencoder, config, folder, console)
    network = task.autoencoder.cpu().float()
    report |= finish(network, config.quality_images)
    network.save_pretrained(folder / "final")
    return report


def _diffusion(config: TrainConfig, root: Path, console: Console) -> dict[str, Any]:
    folder = root / "diffusion"
    tokenizer = save_tokenizer(folder / "tokenizer")
    autoencoder = AutoencoderKL.from_pretrained(_autoencoder_folder(root))
    task = TrainDiffusion(config.diffusion, config.seed, tokenizer, autoencoder)
    if config.start_from is not None:
        known = StableDiffusionPipeline.from_pretrained(_start(config, MODEL))
        task.start_with(known.text_encoder.float(), known.unet.float(), known.tokenizer)
    report = _fit(task, config.diffusion, config, folder, console)
    task.cpu().pipeline().save_pretrained(folder / "final")
    return report


def _evaluator(config: TrainConfig, root: Path, console: Console) -> dict[str, Any]:
    folder = root / "evaluator"
    tokenizer = save_tokenizer(folder / "tokenizer")
    task = TrainEvaluator(config.evaluator, config.seed, tokenizer)
    if config.start_from is not None:
        start = _start(config, EVALUATOR)
        known = CLIPModel.from_pretrained(start, dtype=torch.float32)
        task.start_with(known, CLIPTokenizer.from_pretrained(start))
    report = _fit(task, config.evaluator, config, folder, console)
    network = task.evaluator.cpu().float()
    accuracies = finish_evaluator(network, tokenizer, folder / "final", config.quality_images)
    return report | {"accuracy": accuracies}


_RUN = {"autoencoder": _autoencoder, "diffusion": _diffusion, "evaluator": _evaluator}


def _fit(
    task: TrainingStage[Any],
    stage: StageConfig,
    config: TrainConfig,
    folder: Path,
    console: Console,
) -> dict[str, Any]:
    """Fit from the last checkpoint that belongs to this recipe."""
    task.to(_device(config))
    console.print(f"Stage {folder.name}: {stage.steps} steps of {stage.batch_size}")

    def show(step: int, loss: float, rate: float) -> None:
        console.print(
            f"{folder.name} {step}/{stage.steps}: loss {loss:.4f}, {rate:.0f} samples/s",
            highlight=False,
        )

    checkpoints = Checkpoints(folder, _origin(config, folder.name, folder.parent))
    on_gpu = task.device.type == "cuda"
    torch.backends.cudnn.benchmark = on_gpu  # all batches of a stage have one shape
    ahead = max(1, (os.cpu_count() or 2) - 1) if on_gpu else 0
    with Painters(ahead if config.workers is None else config.workers) as task.painters:
        return fit(task, checkpoints, folder, config.precision == "bf16-mixed", show)


def _device(config: TrainConfig) -> torch.device:
    if config.device not in ("auto", "cpu", "cuda"):
        raise UsageError(f"device={config.device!r} is unknown; use one of auto, cpu, cuda")
    found = torch.cuda.is_available()
    if config.device == "cuda" and not found:
        raise UsageError("device=cuda and no GPU is found: use device=cpu or device=auto")
    return torch.device("cuda" if found and config.device != "cpu" else "cpu")


def export(root: Path, target: Path, console: Console) -> None:
    """Write the finished weights as they ship: UNet in half precision, the small rest in full.

    Each of the two folders is complete before it takes its place; a reader never finds a half one.
    """
    for stage in ("diffusion", "evaluator"):
        if not (root / stage / "final").is_dir():
            raise UsageError(f"stage=export needs {str(root / stage / 'final')!r}: run stage=all")
    made = target / ".export"
    shutil.rmtree(made, ignore_errors=True)
    pipeline = StableDiffusionPipeline.from_pretrained(root / "diffusion" / "final")
    pipeline.unet.half()
    pipeline.save_pretrained(made / MODEL, safe_serialization=True)
    for path in (made / MODEL).rglob("*.json"):
        content = read_json(path, "the configuration")
        if isinstance(content, dict) and content.pop("_name_or_path", None):
            write_json(path, content)  # where it was trained is nobody's business
    shutil.copytree(root / "evaluator" / "final", made / EVALUATOR)
    found = [root / stage / "report.json" for stage in STAGES[:3]]
    reports = {path.parent.name: read_json(path, "the report") for path in found if path.is_file()}
    for report in reports.values():
        report.pop("recipe", None)
    write_json(made / MODEL / "training.json", reports)
    card = target / MODEL / "README.md"
    if card.is_file():
        shutil.copy(card, made / MODEL / "README.md")
    for name in (MODEL, EVALUATOR):
        _exchange(made / name, target / name)
    shutil.rmtree(made)
    size = sum(f.stat().st_size for name in (MODEL, EVALUATOR) for f in (target / name).rglob("*"))
    console.print(f"Exported to {target}: {size / 1e6:.1f} MB in all")


def _exchange(made: Path, place: Path) -> None:
    """Put a finished folder in the place of an old one."""
    if place.exists():
        place.rename(made.with_name(f"{made.name}.old"))
    made.rename(place)
