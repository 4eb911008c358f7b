"""Which FAISS is installed: two packages bring the same module, and only one may be there."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

PACKAGES = ("faiss-gpu-cu12", "faiss-gpu-cu11", "faiss-gpu", "faiss-cpu")


@dataclass(frozen=True)
class Build:
    """What is installed, and one sentence about what is wrong with it; empty: nothing."""

    told: str
    problem: str = ""


@cache
def load_faiss() -> Any:
    """The module; warns where its files come from two packages."""
    if problem := _doubled(_installed()):
        warnings.warn(problem, stacklevel=2)
    return import_module("faiss")


@cache
def faiss_build() -> Build:
    """Name, version and devices of the FAISS that searches use."""
    found = _installed()
    told = ", ".join(f"{name} {number}" for name, number in found.items())
    try:
        faiss = import_module("faiss")
    except ImportError as error:
        return Build(told or "no", f"every search (it cannot be imported: {error})")
    devices = faiss.get_num_gpus() if hasattr(faiss, "get_num_gpus") else 0
    sees = f"sees {devices} GPUs" if devices else "on the CPU"
    return Build(f"{told or f'faiss {faiss.__version__}'}, {sees}", _doubled(found))


def _doubled(found: dict[str, str]) -> str:
    if len(found) < 2:
        return ""
    return (
        f"{' and '.join(found)} write over each other's files: "
        f"pip uninstall -y {' '.join(found)} && pip install {next(iter(found))}"
    )


def _installed() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
