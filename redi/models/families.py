"""Which family a pipeline belongs to."""

from __future__ import annotations

from typing import Any

from redi.errors import UsageError
from redi.models.family import Family
from redi.models.flux import Flux
from redi.models.sd3 import StableDiffusion3
from redi.models.sdxl import StableDiffusionXL
from redi.models.stable_diffusion import StableDiffusion

#: by the class name that model_index.json gives
FAMILIES: dict[str, type[Family]] = {
    kind.pipeline_class.__name__: kind
    for kind in (StableDiffusion, StableDiffusionXL, StableDiffusion3, Flux)
}


def family_called(name: str | None, where: str) -> type[Family]:
    """The family of a pipeline class; a `UsageError` names the ones that have one."""
    if name not in FAMILIES:
        raise UsageError(
            f"{where} cannot be loaded into redi's own loop, it is a {name}: use one of "
            f"{', '.join(FAMILIES)}, or redi.enable on the pipeline itself"
        )
    return FAMILIES[name]


def family_of(
    pipeline: Any, size: int | None, guidance_scale: float, negative_prompt: str
) -> Family:
    """The family around a loaded pipeline."""
    kind = family_called(type(pipeline).__name__, "the pipeline")
    return kind(pipeline, size, guidance_scale, negative_prompt)
