"""Which sampler is which diffusers scheduler, and which options each takes.

As linear multistep methods, which is what the bounds are stated for, `redi.theory.multistep` knows
ddim, euler, flow_euler (from its first update on), pndm, dpm_solver, dpm_solver_pp and deis, orders
1 to 3. The others have no such form: unipc corrects a second state beside the one that the network
sees, dpm_solver_single starts several updates from one state, and heun, flow_heun and the warm-up
of pndm_prk call the network on guesses between two states.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from redi.lazy import diffusers
from redi.samplers.base import Sampler
from redi.samplers.ddim import DDIM
from redi.samplers.euler import Euler, Heun
from redi.samplers.flow import FlowEuler, FlowHeun
from redi.samplers.multistep import DEIS, DPMSolver, DPMSolverPlusPlus, UniPC
from redi.samplers.pndm import PNDM, PNDMRungeKutta
from redi.samplers.singlestep import DPMSolverSingleStep

SPACINGS = ("trailing", "leading", "linspace")


@dataclass(frozen=True)
class SamplerOptions:
    """What can be chosen about a sampler; None leaves the model's or the sampler's own."""

    timestep_spacing: str | None = None
    #: solver order of the multistep and single-step methods, 1 to 3
    order: int | None = None
    #: noise levels of Karras et al. (2022) in place of the timestep spacing
    use_karras_sigmas: bool | None = None


@dataclass(frozen=True)
class Kind:
    """One named sampler."""

    adapter: type[Sampler]
    #: class of its scheduler, or the name of one in diffusers
    scheduler: type | str
    #: scheduler options that define the sampler
    fixed: dict[str, Any] = field(default_factory=dict)
    #: names of `SamplerOptions` that it takes
    options: tuple[str, ...] = ("timestep_spacing",)
    #: scheduler options that tell samplers of one scheduler class apart
    told_by: Callable[[Any], bool] = lambda config: True
    #: whether it needs a rectified-flow model
    flow: bool = False
    #: what the network may predict, in the words of diffusers' `prediction_type`
    predictions: tuple[str, ...] = ("epsilon", "sample", "v_prediction")

    @property
    def scheduler_class(self) -> Any:
        """Imported when it is asked for: what is chosen can be checked without it."""
        return (
            getattr(diffusers, self.scheduler)
            if isinstance(self.scheduler, str)
            else self.scheduler
        )


#: a velocity from the clean latents to the noise, which a rectified flow predicts
FLOW_PREDICTION = "flow_prediction"
_PNDM = ("epsilon", "v_prediction")
_ANY = ("epsilon", "sample", "v_prediction", FLOW_PREDICTION)
_SOLVER = ("timestep_spacing", "order", "use_karras_sigmas")

SAMPLERS: dict[str, Kind] = {
    "ddim": Kind(DDIM, "DDIMScheduler"),
    "pndm": Kind(
        PNDM,
        "PNDMScheduler",
        {"skip_prk_steps": True},
        told_by=lambda config: bool(config.skip_prk_steps),
        predictions=_PNDM,
    ),
    "pndm_prk": Kind(
        PNDMRungeKutta,
        "PNDMScheduler",
        {"skip_prk_steps": False},
        told_by=lambda config: not config.skip_prk_steps,
        predictions=_PNDM,
    ),
    "dpm_solver": Kind(
        DPMSolver,
        "DPMSolverMultistepScheduler",
        {"algorithm_type": "dpmsolver", "solver_order": 2, "final_sigmas_type": "sigma_min"},
        _SOLVER,
        told_by=lambda config: config.algorithm_type == "dpmsolver",
    ),
    "dpm_solver_pp": Kind(
        DPMSolverPlusPlus,
        "DPMSolverMultistepScheduler",
        {"algorithm_type": "dpmsolver++", "solver_order": 2, "final_sigmas_type": "zero"},
        _SOLVER,
        told_by=lambda config: config.algorithm_type == "dpmsolver++",
        predictions=_ANY,
    ),
    "dpm_solver_single": Kind(
        DPMSolverSingleStep,
        "DPMSolverSinglestepScheduler",
        {"algorithm_type": "dpmsolver++", "solver_order": 2, "final_sigmas_type": "zero"},
        ("order", "use_karras_sigmas"),
        told_by=lambda config: not config.algorithm_type.startswith("sde"),
        predictions=_ANY,
    ),
    "unipc": Kind(UniPC, "UniPCMultistepScheduler", {"solver_order": 2}, _SOLVER, predictions=_ANY),
    "deis": Kind(
        DEIS,
        "DEISMultistepScheduler",
        {"algorithm_type": "deis", "solver_order": 2},
        _SOLVER,
        predictions=_ANY,
    ),
    "euler": Kind(Euler, "EulerDiscreteScheduler", {}, ("timestep_spacing", "use_karras_sigmas")),
    "heun": Kind(Heun, "HeunDiscreteScheduler", {}, ("timestep_spacing", "use_karras_sigmas")),
    "flow_euler": Kind(
        FlowEuler,
        "FlowMatchEulerDiscreteScheduler",
        {},
        ("use_karras_sigmas",),
        told_by=lambda config: not config.stochastic_sampling,
        flow=True,
        predictions=(FLOW_PREDICTION,),
    ),
    "flow_heun": Kind(
        FlowHeun,
        "FlowMatchHeunDiscreteScheduler",
        {},
        (),
        told_by=lambda config: not config.get("stochastic_sampling"),
        flow=True,
        predictions=(FLOW_PREDICTION,),
    ),
}
