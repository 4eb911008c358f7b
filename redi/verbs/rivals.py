"""Plain samplers that a method has to beat with as many network calls, as people write them."""

from __future__ import annotations

from dataclasses import replace

from redi.errors import UsageError
from redi.methods.base import Method
from redi.methods.few.bases import BASES
from redi.methods.few.placement import check_levels
from redi.methods.placed import Placed
from redi.methods.plain import Plain
from redi.samplers import SAMPLERS, check_options
from redi.samplers.catalogue import SPACINGS

_WORDS = f"1, 2, 3 (order), karras, {', '.join(SPACINGS)}, or lateP alone"


def rival(text: str, spacing: str | None, calls: int = 1) -> Method:
    """Read `name[:option...]`, an entry of `correction.against`, as in `dpm_solver_pp:3:karras`.

    Args:
        spacing: where it names none.
        calls: network calls.
    """
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
        return Placed(calls, name, words[0])
    takes = SAMPLERS[name].options
    found = Plain(calls, name, timestep_spacing=spacing if "timestep_spacing" in takes else None)
    for word in words:
        if word in SPACINGS:
            found = replace(found, timestep_spacing=word)
        elif word == "karras":
            found = replace(found, use_karras_sigmas=True)
        elif word in ("1", "2", "3"):
            found = replace(found, order=int(word))
        else:
            raise UsageError(f"correction.against has {text!r}: after the name use {_WORDS}")
    check_options(name, found.options)
    return found
