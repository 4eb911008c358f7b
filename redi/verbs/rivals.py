"""Plain samplers that a method has to beat with as many network calls."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from redi.errors import UsageError
from redi.methods.corrected.base import BASES
from redi.methods.corrected.plan import check_levels
from redi.samplers import SAMPLERS, Sampler, SamplerOptions, build_sampler, check_options
from redi.samplers.catalogue import SPACINGS

_WORDS = f"1, 2, 3 (order), karras, {', '.join(SPACINGS)}, or lateP alone"


@dataclass(frozen=True)
class Rival:
    """A sampler with its options, written `name[:option...]`, as in `dpm_solver_pp:3:karras`."""

    label: str
    name: str
    options: SamplerOptions
    #: levels among those of the reference in the place of the sampler's own (`coarse_steps`)
    placement: str | None = None

    def sampler(self, model_config: Mapping[str, Any], steps: int) -> Sampler:
        """The sampler with `steps` updates on a model's noise schedule."""
        o = self.options
        return build_sampler(
            self.name, model_config, steps, o.timestep_spacing, o.order, o.use_karras_sigmas
        )

    def with_calls(self, model_config: Mapping[str, Any], calls: int) -> Sampler | None:
        """The sampler, evenly spread, with exactly `calls` network calls; None: it has none."""
        for steps in range(calls, SAMPLERS[self.name].adapter.min_steps - 1, -1):
            sampler = self.sampler(model_config, steps)
            if sampler.calls(0, steps) == calls:
                return sampler
        return None


def rival(text: str, spacing: str | None) -> Rival:
    """Read an entry of `correction.against`; `spacing` where it names none."""
    name, *words = text.split(":")
    if name not in SAMPLERS:
        raise UsageError(f"correction.against has {name!r}; use any of {', '.join(SAMPLERS)}")
    if len(words) == 1 and words[0].startswith("late"):
        check_levels(words[0], "correction.against")
        if name not in BASES:
            raise UsageError(
                f"correction.against has {text!r}; only {', '.join(BASES)} run on levels of the "
                "reference"
            )
        return Rival(text, name, SamplerOptions(), words[0])
    takes = SAMPLERS[name].options
    options = SamplerOptions(timestep_spacing=spacing if "timestep_spacing" in takes else None)
    for word in words:
        if word in SPACINGS:
            options = replace(options, timestep_spacing=word)
        elif word == "karras":
            options = replace(options, use_karras_sigmas=True)
        elif word in ("1", "2", "3"):
            options = replace(options, order=int(word))
        else:
            raise UsageError(f"correction.against has {text!r}: after the name use {_WORDS}")
    check_options(name, options)
    return Rival(text, name, options)
