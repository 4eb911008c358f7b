"""What the best few-step sampler is chosen from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace

from redi.errors import UsageError, unknown
from redi.methods.base import METHODS, Fitted, Method
from redi.methods.corrected import Corrected
from redi.methods.corrected.fit import STANDARD
from redi.methods.few import FittedLevels

#: what stands for the plain samplers among the names
PLAIN = "plain"
#: plain samplers that are tried on every placement
BASES = ("ddim", "dpm_solver_pp", "unipc", "ipndm2", "ipndm")
#: where levels are tried: those that a KB stores for its budgets
PLACEMENTS = ("even", "late0.6", "late1.4", "late1.8", "late2.3")
#: and where they are searched, in a KB that stores all steps
SEARCHED = "oss"
#: the forms that err least: fitted on the states that the solver itself gets to, a better base
_FORMS = {"olss": {"states": "visited"}, "dode": {"base": "dpm_solver_pp"}}


def known() -> list[str]:
    """Names that may be allowed, those whose fit asks for few network calls first."""
    kinds = {name: kind for name, kind in METHODS.items() if issubclass(kind, Fitted)}
    chosen = {n: k for n, k in kinds.items() if issubclass(k, FittedLevels | Corrected)}
    return [PLAIN, *sorted(chosen, key=lambda name: chosen[name].end_to_end)]


def check_names(names: Sequence[str]) -> None:
    """Refuse names that cannot be chosen from."""
    for name in names:
        if name not in known():
            raise unknown(f"methods has {name!r}, which", name, known())
    if len(set(names)) != len(names):
        raise UsageError(f"methods={list(names)} names a method twice")


def named(base: str, levels: str) -> str:
    """What a plain sampler on some levels is called among the candidates."""
    return f"{base}:{levels}"


def fitted(name: str, calls: int, levels: str) -> Method:
    """A method that is fitted, on levels if it takes any; corrections choose among theirs too."""
    kind = METHODS[name]
    assert issubclass(kind, Fitted)
    if issubclass(kind, Corrected):
        tried = dict.fromkeys([*STANDARD.levels, levels])
        return kind(calls, replace(STANDARD, levels=tuple(tried)))
    takes = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    settings = {"levels": levels} if "levels" in takes else {}
    return kind(calls=calls, **settings, **_FORMS.get(name, {}))  # type: ignore[call-arg]
