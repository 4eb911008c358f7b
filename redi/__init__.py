"""redi: learning-free diffusion inference by trajectory retrieval.

`enable`, `disable`, `summary`, `record` and `generators` work on a user's own diffusers pipeline;
they are imported when they are first used, so that `import redi` stays light.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from redi.pipeline import disable, enable, fit, generators, record, summary

__all__ = ["disable", "enable", "fit", "generators", "record", "summary"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'redi' has no attribute {name!r}")
    import redi.pipeline

    return getattr(redi.pipeline, name)
