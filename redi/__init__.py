"""redi: learning-free diffusion inference by trajectory retrieval.

`enable`, `disable`, `summary`, `record`, `fit` and `generators` work on a user's own diffusers
pipeline; `METHODS` and the classes in it, such as `ReDi` and `Corrected`, are what it can be
enabled with. All of them are imported when they are first used, so that `import redi` stays light.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from redi.methods import METHODS
    from redi.methods.best import Best
    from redi.methods.corrected import Adaptive, Corrected
    from redi.methods.dc import DCSolver
    from redi.methods.dode import DODE
    from redi.methods.olss import OLSS
    from redi.methods.pas import PAS
    from redi.methods.placed import Placed
    from redi.methods.plain import Full, Plain
    from redi.methods.redi import ReDi
    from redi.methods.span import Span
    from redi.methods.v3 import DPMSolverV3
    from redi.pipeline import disable, enable, fit, generators, record, summary

__all__ = [
    "DODE",
    "METHODS",
    "OLSS",
    "PAS",
    "Adaptive",
    "Best",
    "Corrected",
    "DCSolver",
    "DPMSolverV3",
    "Full",
    "Placed",
    "Plain",
    "ReDi",
    "Span",
    "disable",
    "enable",
    "fit",
    "generators",
    "record",
    "summary",
]


def __getattr__(name: str) -> Any:
    if name in __all__ and name[0].islower():
        import redi.pipeline

        return getattr(redi.pipeline, name)
    if name[:1].isupper():
        from redi.methods import METHODS

        if name == "METHODS":
            return METHODS
        for method in METHODS.values():
            if method.__name__ == name:
                return method
    raise AttributeError(f"module 'redi' has no attribute {name!r}")
