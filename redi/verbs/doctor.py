"""`redi doctor`: what is installed and found here, and what is missing for which feature."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Table

from redi.composition import CONF
from redi.config import MetricsConfig
from redi.embedded.atlas import ASSETS
from redi.errors import UsageError
from redi.files import free_bytes
from redi.lazy import torch
from redi.metrics.weights import WEIGHTS, locate
from redi.models.network import compiler
from redi.report.loggers import logged_in
from redi.retrieval.builds import faiss_build
from redi.text import plain

#: modules that only some commands need: what each is for, and the extra that brings it
OPTIONAL = {
    "tensorboard": ("logger=tensorboard", "tensorboard"),
    "hydra_plugins.hydra_joblib_launcher": ("hydra/launcher=joblib", "launchers"),
    "hydra_plugins.hydra_submitit_launcher": ("hydra/launcher=submitit_slurm", "launchers"),
    "hydra_plugins.hydra_ray_launcher": ("hydra/launcher=ray", "ray"),
    "gradio": ("redi demo", "demo"),
    "nbclient": ("the notebooks", "notebooks"),
    "peft": ("pipelines with LoRA", "test"),
    "accelerate": ("offloading of pipelines that do not fit into the GPU", "test"),
}
_PACKAGES = ("torch", "diffusers", "transformers", "lightning", "numpy", "pyarrow", "hydra-core")


@dataclass(frozen=True)
class Finding:
    """One line: what it is about, what was found, and what is missing because of it."""

    about: str
    found: str
    missing: str = ""


def doctor(arguments: list[str], console: Console) -> None:
    """Print everything."""
    if arguments:
        raise UsageError(f"redi doctor takes no arguments, got {arguments[0]!r}: leave it out")
    table = Table(show_lines=False)
    for heading in ("", "found", "missing"):
        table.add_column(heading, overflow="fold")
    for finding in findings(Path(MetricsConfig().weights)):
        style = "yellow" if finding.missing else ""
        cells = (finding.about, finding.found, finding.missing)
        table.add_row(*(plain(cell) for cell in cells), style=style)
    console.print(table)


def findings(weights: Path) -> Iterator[Finding]:
    """All lines; `weights` is where weights of published metrics are looked for."""
    yield Finding("Python", f"{platform.python_version()} on {platform.platform(terse=True)}")
    yield Finding("packages", ", ".join(f"{name} {version(name)}" for name in _PACKAGES))
    yield from _devices()
    build = faiss_build()
    yield Finding("FAISS", build.told, build.problem)
    yield Finding("free disk", f"{free_bytes(Path()) / 1e9:.0f} GB in {str(Path.cwd())!r}")
    for name, purpose in (("emoji-scenes", "model=emoji"), ("emoji-clip", "its evaluator")):
        there = (ASSETS / name).is_dir()
        yield Finding(name, "ships with redi" if there else "no", "" if there else purpose)
    yield from _pipelines()
    for kind in WEIGHTS:
        place = locate(kind, weights, download=False)
        found = str(place) if isinstance(place, Path) else "no"
        yield Finding(f"weights: {kind}", found, "" if isinstance(place, Path) else str(place))
    yield from _optional()
    account = logged_in()
    yield Finding(
        "wandb login", "yes" if account else "no", "" if account else "logger.mode=online"
    )


def _devices() -> Iterator[Finding]:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    yield Finding("processor", f"{torch.get_num_threads()} threads, {memory:.0f} GB of memory")
    if not torch.cuda.is_available():
        mps = torch.backends.mps.is_available()
        yield Finding("GPU", "Apple's" if mps else "none", "" if mps else "all runs on the CPU")
    for number in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(number)
        yield Finding(f"GPU {number}", f"{properties.name}, {properties.total_memory / 1e9:.0f} GB")


def _pipelines() -> Iterator[Finding]:
    """Published pipelines in the hub's cache."""
    from huggingface_hub import try_to_load_from_cache

    for path in sorted((CONF / "model").glob("*.yaml")):
        hub_id = OmegaConf.select(OmegaConf.load(path), "hub_id")
        if hub_id is not None:
            there = isinstance(try_to_load_from_cache(hub_id, "model_index.json"), str)
            missing = f"hf download {hub_id}, or model.path=FOLDER"
            found = "in the cache" if there else "no"
            yield Finding(f"model={path.stem}", found, "" if there else missing)


def _optional() -> Iterator[Finding]:
    for module, (purpose, extra) in OPTIONAL.items():
        try:
            there = find_spec(module) is not None
        except ModuleNotFoundError:
            there = False
        name = module.rpartition(".")[2].replace("_", "-")
        try:
            found = version(name)
        except PackageNotFoundError:
            found = "yes" if there else "no"
        missing = "" if there else f"{purpose}: pip install 'redi[{extra}]'"
        yield Finding(name, found, missing)
    path = compiler()
    yield Finding("C++ compiler", path or "no", "" if path else "model.compile=true")
    git = shutil.which("git")
    yield Finding("git", git or "no", "" if git else "the revision in results.json")
