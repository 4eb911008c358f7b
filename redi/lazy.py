"""Packages that take seconds to import, imported when something of them is first used.

Checks, stores and tables answer at once because their files say `from redi.lazy import torch` in
the place of `import torch`; ruff refuses the latter there. `Tensor` is a name for annotations:
`isinstance` takes `torch.Tensor`.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import diffusers
    import torch
    from scipy import linalg, optimize, stats
    from scipy.spatial import distance
    from torch import Tensor
    from torch.nn import functional
else:

    class Lazy(ModuleType):
        """Stands for a module until an attribute of it is asked for."""

        def __getattr__(self, name: str) -> Any:
            return getattr(import_module(self.__name__), name)

    torch, functional = Lazy("torch"), Lazy("torch.nn.functional")
    diffusers = Lazy("diffusers")
    linalg, optimize, stats = (Lazy(f"scipy.{name}") for name in ("linalg", "optimize", "stats"))
    distance = Lazy("scipy.spatial.distance")
    Tensor = Any

__all__ = ["Tensor", "diffusers", "distance", "functional", "linalg", "optimize", "stats", "torch"]
