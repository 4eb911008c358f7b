"""How the denoising network is run: the memory order of its weights, and compiled or not."""

from __future__ import annotations

import os
import shutil
from typing import Any

from redi.errors import UsageError
from redi.lazy import torch

#: C++ compilers that torch.compile can use, in the order in which it looks for them
_COMPILERS = ("g++", "clang++", "c++")


def prepare(network: Any, channels_last: bool, compiled: bool) -> None:
    """Set up a network in place; its class and its weights stay what they are."""
    if channels_last:
        network.to(memory_format=torch.channels_last)
    if compiled:
        network.compile()


def ways(network: Any) -> dict[str, bool]:
    """What `prepare` did to a network, since rounding may depend on it; plain ones say nothing."""
    found = {
        "channels_last": _is_channels_last(network),
        "compiled": getattr(network, "_compiled_call_impl", None) is not None,
    }
    return {name: True for name, is_so in found.items() if is_so}


def compiler() -> str | None:
    """Path of the C++ compiler that torch.compile would use; None: there is none."""
    names = filter(None, [os.environ.get("CXX"), *_COMPILERS])
    return next(filter(None, map(shutil.which, names)), None)


def check_compiler() -> None:
    """Refuse `model.compile=true` before any work where nothing could compile."""
    if compiler() is None:
        raise UsageError(
            "model.compile=true needs a C++ compiler, and there is none on this machine: install "
            "g++ (or set CXX), or leave model.compile=false"
        )


def _is_channels_last(network: Any) -> bool:
    weights = (w for w in network.parameters() if w.dim() == 4 and min(w.shape[1:3]) > 1)
    first = next(weights, None)
    return first is not None and first.is_contiguous(memory_format=torch.channels_last)
