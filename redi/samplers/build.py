"""Building samplers: by name on a model's noise schedule, or around a scheduler that is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from redi.errors import UsageError
from redi.samplers.base import Sampler
from redi.samplers.catalogue import FLOW_PREDICTION, SAMPLERS, SPACINGS, Kind, SamplerOptions
from redi.samplers.check import check_prediction, check_sampler, check_steps

_FIELDS = {"order": "solver_order"}  # the scheduler's name of an option, where it differs
_ORDERS = (1, 2, 3)
#: what a flow model's own pipeline tells `set_timesteps`: the shift of its levels, and whether
#: they are even before it
_SCHEDULE = ("mu", "even_sigmas")
_WHY_NOT_STOCHASTIC = (
    "it adds fresh noise in every step, so the latents of another trajectory at the value step say "
    "nothing about this one's: use a deterministic sampler"
)
_STOCHASTIC_WORDS = ("ancestral", "sde", "ddpm", "lcm", "tcd", "stochastic")


def build_scheduler(
    name: str,
    model_config: Mapping[str, Any],
    timestep_spacing: str | None = None,
    order: int | None = None,
    use_karras_sigmas: bool | None = None,
) -> Any:
    """The diffusers scheduler `name` on the noise schedule in `model_config`.

    An option of None keeps what the model's own configuration says, or the sampler's default.
    """
    options = SamplerOptions(timestep_spacing, order, use_karras_sigmas)
    check_options(name, options)
    kind = SAMPLERS[name]
    from_flow = "betas" not in model_config and "beta_start" not in model_config
    prediction = FLOW_PREDICTION if from_flow else model_config.get("prediction_type", "epsilon")
    if kind.flow != from_flow:
        family = "a rectified-flow" if from_flow else f"a {prediction!r}"
        fitting = ", ".join(
            n for n, o in SAMPLERS.items() if o.flow == from_flow and prediction in o.predictions
        )
        raise UsageError(f"sampler={name} does not fit {family} model: use one of {fitting}")
    check_prediction(name, kind, prediction)
    if name == "flow_heun" and model_config.get("use_dynamic_shifting"):
        raise UsageError(
            "sampler=flow_heun cannot shift its levels with the picture's size, as this model's "
            "scheduler does: use flow_euler"
        )
    given = {k: v for k, v in asdict(options).items() if v is not None}
    chosen = {_FIELDS.get(key, key): value for key, value in given.items()}
    own = {k: v for k, v in model_config.items() if k not in _SCHEDULE}
    return kind.scheduler_class.from_config(own, **{**kind.fixed, **chosen})


def shifted(
    config: Mapping[str, Any], tokens: int, shift_of: Callable[..., float]
) -> dict[str, Any]:
    """A flow model's scheduler options with `mu`, where its shift depends on the picture's size.

    `shift_of` is the model's own pipeline's rule, for a picture of that many tokens.
    """
    if not config.get("use_dynamic_shifting"):
        return dict(config)
    names = {
        "base_image_seq_len": "base_seq_len",
        "max_image_seq_len": "max_seq_len",
        "base_shift": "base_shift",
        "max_shift": "max_shift",
    }
    given = {names[key]: config[key] for key in names if key in config}
    return {**config, "mu": shift_of(tokens, **given)}


def check_options(name: str, options: SamplerOptions) -> None:
    """Refuse unknown samplers, and options that a sampler does not take."""
    if name not in SAMPLERS:
        known = ", ".join(SAMPLERS)
        if _sounds_stochastic(name):
            raise UsageError(f"sampler={name!r} is stochastic: {_WHY_NOT_STOCHASTIC} ({known})")
        raise UsageError(f"sampler={name!r} is unknown; use one of {known}")
    if options.timestep_spacing is not None and options.timestep_spacing not in SPACINGS:
        raise UsageError(
            f"sampler.timestep_spacing={options.timestep_spacing!r} is unknown; "
            f"use one of {', '.join(SPACINGS)} or null for the model's own"
        )
    if options.order is not None and options.order not in _ORDERS:
        raise UsageError(f"sampler.order={options.order} is out of range: use 1, 2 or 3")
    for key, value in asdict(options).items():
        if value is not None and key not in SAMPLERS[name].options:
            taking = ", ".join(n for n, kind in SAMPLERS.items() if key in kind.options)
            raise UsageError(
                f"sampler.{key}={value} does nothing with sampler={name}: "
                f"set it to null, or use one of {taking}"
            )


def build_sampler(
    name: str,
    model_config: Mapping[str, Any],
    num_steps: int,
    timestep_spacing: str | None = None,
    order: int | None = None,
    use_karras_sigmas: bool | None = None,
) -> Sampler:
    """A sampler of `num_steps` updates on the model's noise schedule."""
    scheduler = build_scheduler(name, model_config, timestep_spacing, order, use_karras_sigmas)
    kind, told = SAMPLERS[name], "sampling.steps"
    check_steps(name, kind, num_steps, None if kind.flow else _trained(scheduler), told)
    schedule: dict[str, Any] = {}
    if name == "flow_euler" and "mu" in model_config:
        schedule["mu"] = model_config["mu"]
    if name == "flow_euler" and model_config.get("even_sigmas"):
        schedule["sigmas"] = even_levels(num_steps)
    try:
        scheduler.set_timesteps(num_steps, **schedule)
    except ValueError as error:
        raise UsageError(
            f"sampler={name} cannot be set to {told}={num_steps} on this model's noise schedule: "
            f"{error}"
        ) from None
    return adapt(scheduler, told)


def even_levels(steps: int) -> np.ndarray:
    """The levels, before their shift, that pipelines of flow models give their schedulers."""
    return np.linspace(1.0, 1 / steps, steps)


def set_as_told(
    scheduler: Any, steps: int, mu: float | None, even: bool, device: Any = None
) -> None:
    """Set a scheduler as a flow pipeline does, for another number of steps.

    Args:
        mu: by what it shifts its levels; None: it says nothing.
        even: whether it names `even_levels`, which are not the scheduler's own.
    """
    count = {"sigmas": even_levels(steps)} if even else {"num_inference_steps": steps}
    scheduler.set_timesteps(**count, **({} if mu is None else {"mu": mu}), device=device)


def kind_of(scheduler: Any) -> tuple[str, Kind]:
    """Name and kind of the sampler that a diffusers scheduler is; refuses what has no adapter."""
    class_name = type(scheduler).__name__
    for name, kind in SAMPLERS.items():
        if type(scheduler) is kind.scheduler_class and kind.told_by(scheduler.config):
            if getattr(scheduler, "solver_p", None) is not None:
                raise UsageError("scheduler.solver_p is not supported: leave it unset")
            return name, kind
    algorithm = str(scheduler.config.get("algorithm_type", ""))
    stochastic = bool(scheduler.config.get("stochastic_sampling"))
    if stochastic or _sounds_stochastic(class_name) or _sounds_stochastic(algorithm):
        shown = f"{class_name} {algorithm}".strip()
        raise UsageError(f"the scheduler {shown} is stochastic: {_WHY_NOT_STOCHASTIC}")
    known = sorted({kind.scheduler_class.__name__ for kind in SAMPLERS.values()})
    raise UsageError(f"the scheduler {class_name} has no adapter: use one of {', '.join(known)}")


def adapt(scheduler: Any, told: str = "num_inference_steps") -> Sampler:
    """The sampler of a diffusers scheduler on which `set_timesteps` was called.

    Refuses a scheduler that is stochastic or whose run cannot end well; `told` is what the user
    calls the number of steps.
    """
    name, kind = kind_of(scheduler)
    check_steps(name, kind, int(scheduler.num_inference_steps), None, told)
    check_prediction(name, kind, scheduler.config.get("prediction_type", FLOW_PREDICTION))
    sampler = kind.adapter(scheduler)
    check_sampler(sampler, kind, told)
    return sampler


def refuse_noise(options: Mapping[str, Any]) -> None:
    """Refuse arguments of a scheduler's step that would make it stochastic."""
    for key in ("eta", "s_churn"):
        if options.get(key):
            raise UsageError(f"{key}={options[key]} is stochastic: {_WHY_NOT_STOCHASTIC}")


def _trained(scheduler: Any) -> int:
    return int(scheduler.config.num_train_timesteps)


def _sounds_stochastic(name: str) -> bool:
    return any(word in name.lower() for word in _STOCHASTIC_WORDS)
