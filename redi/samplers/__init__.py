"""Samplers: one adapter per diffusers scheduler family, with exact step indices and state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, PNDMScheduler

from redi.errors import UsageError
from redi.samplers.base import RESUME_POLICIES, Sampler
from redi.samplers.ddim import DDIM
from redi.samplers.dpm_solver import DPMSolver, DPMSolverPlusPlus
from redi.samplers.pndm import PNDM
from redi.samplers.state import Levels, Predict, SamplerState, StepRecord

SPACINGS = ("trailing", "leading", "linspace")

#: name -> adapter, scheduler class, scheduler options that define the sampler
SAMPLERS: dict[str, tuple[type[Sampler], Any, dict[str, Any]]] = {
    "ddim": (DDIM, DDIMScheduler, {}),
    "pndm": (PNDM, PNDMScheduler, {"skip_prk_steps": True}),
    "dpm_solver": (
        DPMSolver,
        DPMSolverMultistepScheduler,
        {"algorithm_type": "dpmsolver", "solver_order": 2, "final_sigmas_type": "sigma_min"},
    ),
    "dpm_solver_pp": (
        DPMSolverPlusPlus,
        DPMSolverMultistepScheduler,
        {"algorithm_type": "dpmsolver++", "solver_order": 2, "final_sigmas_type": "zero"},
    ),
}


def build_scheduler(
    name: str, model_config: Mapping[str, Any], timestep_spacing: str | None = None
) -> Any:
    """The diffusers scheduler `name` on the noise schedule in `model_config`.

    `timestep_spacing` of None keeps what the model's own configuration says.
    """
    if name not in SAMPLERS:
        raise UsageError(f"sampler={name!r} is unknown; use one of {', '.join(SAMPLERS)}")
    if timestep_spacing is not None and timestep_spacing not in SPACINGS:
        raise UsageError(
            f"sampler.timestep_spacing={timestep_spacing!r} is unknown; "
            f"use one of {', '.join(SPACINGS)} or null for the model's own"
        )
    _, scheduler_class, options = SAMPLERS[name]
    spacing = {} if timestep_spacing is None else {"timestep_spacing": timestep_spacing}
    return scheduler_class.from_config(dict(model_config), **options, **spacing)


def build_sampler(
    name: str,
    model_config: Mapping[str, Any],
    num_steps: int,
    timestep_spacing: str | None = None,
) -> Sampler:
    """A sampler of `num_steps` updates on the model's noise schedule."""
    scheduler = build_scheduler(name, model_config, timestep_spacing)
    return SAMPLERS[name][0](scheduler, num_steps)


__all__ = [
    "RESUME_POLICIES",
    "SAMPLERS",
    "Levels",
    "Predict",
    "Sampler",
    "SamplerState",
    "StepRecord",
    "build_sampler",
    "build_scheduler",
]
