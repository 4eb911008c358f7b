"""What a run was made with: versions, git revision, machine, hashes."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from redi.lazy import torch

_PACKAGES = (
    "redi", "torch", "diffusers", "transformers", "lightning", "hydra-core",
    "faiss-gpu-cu12", "faiss-cpu", "torchmetrics", "numpy", "scipy", "safetensors", "pyarrow",
)  # fmt: skip


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that results depend on."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def git_revision() -> dict[str, Any]:
    """Commit of the source tree and whether it was changed; empty outside a checkout."""
    folder = Path(__file__).resolve().parent

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    revision = git("rev-parse", "HEAD")
    if revision is None:
        return {}
    return {"revision": revision, "changed": bool(git("status", "--porcelain", "-uno"))}


def machine() -> dict[str, Any]:
    """What timings depend on."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"processor": platform.machine(), "threads": torch.get_num_threads(), "gpu": gpu}
