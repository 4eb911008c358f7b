"""What no sampler can run on: refused where it is built, one sentence with the likely cause."""

from __future__ import annotations

from redi.errors import UsageError
from redi.lazy import torch
from redi.samplers.base import Sampler
from redi.samplers.catalogue import SAMPLERS, Kind

#: `rho` of a first level that holds no signal (2^-12, where diffusers cuts zero terminal SNR off;
#: in float32, which some processors round below 4096)
_NO_SIGNAL = 4095.0
_OTHER_LEVELS = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas")


def check_steps(name: str, kind: Kind, num_steps: int, trained: int | None, told: str) -> None:
    """Refuse a number of updates before a scheduler is set to it; `told` is what the user set.

    `trained` is the number of timesteps that the network knows; None: any real one.
    """
    least = kind.adapter.min_steps
    if num_steps < least:
        raise UsageError(
            f"{told}={num_steps} is too small for sampler={name}: use at least {least}"
        )
    if trained is not None and num_steps > trained:
        raise UsageError(
            f"{told}={num_steps} is more than the {trained} timesteps that the model knows: "
            f"use at most {trained}"
        )


def check_prediction(name: str, kind: Kind, prediction: str) -> None:
    """Refuse a prediction type that the sampler's scheduler cannot convert."""
    if prediction in kind.predictions:
        return
    fitting = [
        n for n, o in SAMPLERS.items() if prediction in o.predictions and o.flow == kind.flow
    ]
    raise UsageError(
        f"sampler={name} cannot use a model with prediction_type={prediction!r}: "
        + (f"use one of {', '.join(fitting)}" if fitting else "no sampler can")
    )


def check_sampler(sampler: Sampler, kind: Kind, told: str) -> None:
    """Refuse a built sampler whose calls or levels are not those of a run that ends well."""
    count, config = f"{told}={sampler.num_steps}", sampler.scheduler.config
    if not kind.flow and not config.get("use_flow_sigmas"):
        trained, asked = int(config.num_train_timesteps), float(sampler.scheduler.timesteps.max())
        if asked > trained - 1:
            raise UsageError(
                f"{count} with timestep_spacing={config.get('timestep_spacing')!r} and steps_offset"
                f"={config.get('steps_offset')} asks the network for timestep {asked:g}, and it "
                f"knows 0 to {trained - 1}: use fewer steps or trailing spacing"
            )
    alpha, sigma, rho = sampler.levels.alpha, sampler.levels.sigma, sampler.levels.rho
    if len(alpha) != sampler.num_steps + 1:
        raise UsageError(
            f"sampler={sampler.name} has {len(alpha)} noise levels for {count}, and N steps join "
            "N + 1: set interpolation_type='linear' in the scheduler's configuration"
        )
    chosen = [name for name in _OTHER_LEVELS if config.get(name)]
    if not (torch.isfinite(alpha) & torch.isfinite(sigma) & (alpha >= 0) & (sigma >= 0)).all():
        cause = f"unset {chosen[0]}" if chosen else "check the betas and shift of its configuration"
        raise UsageError(f"sampler={sampler.name} has noise levels that do not exist: {cause}")
    falls = rho[1:] <= rho[:-1]
    if sampler.history_size:
        falls[:-1] &= rho[1:-1] < rho[:-2]  # a multistep method divides by the step
    if not falls.all():
        step, advice = int((~falls).nonzero()[0, 0]), ["use fewer steps"]
        if "timestep_spacing" in kind.options:
            advice.append("use trailing spacing")
        advice += [f"unset {option}" for option in chosen]
        raise UsageError(
            f"sampler={sampler.name} with {count} has noise levels that do not fall after step "
            f"{step}: {' or '.join(advice)}"
        )
    if config.get("prediction_type") == "epsilon" and float(rho[0]) >= _NO_SIGNAL:
        raise UsageError(
            "the model predicts noise (prediction_type='epsilon') and the schedule starts at zero "
            "signal, where noise says nothing about the picture: set rescale_betas_zero_snr=false "
            "in the scheduler's configuration"
        )
