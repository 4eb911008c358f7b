"""What a method has to beat with as many network calls, as people write it: plain and fitted."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

from redi.errors import UsageError, unknown
from redi.methods import METHODS, Method, make_method
from redi.methods.few.bases import BASES
from redi.methods.few.method import FittedLevels
from redi.methods.few.placement import check_levels, is_placement
from redi.methods.placed import Placed
from redi.methods.plain import Plain
from redi.samplers import SAMPLERS, check_options
from redi.samplers.catalogue import SPACINGS

_WHERE = "correction.against"
_WORDS = f"1, 2, 3 (order), karras, {', '.join(SPACINGS)}, or levels, and then analytic"


def rival(text: str, spacing: str | None, calls: int = 1) -> Method:
    """Read an entry of `correction.against`.

    `name[:option...]` is a sampler as diffusers has it, as `dpm_solver_pp:3:karras`;
    `base:levels[:analytic]` one of ours on placed levels, as `ipndm:poly` or `ddim:gits`;
    `name[:setting=value...]` a fitted solver, as `olss:levels=even`.

    Args:
        spacing: of a sampler that names none.
        calls: network calls.
    """
    name, *words = text.split(":")
    kind = METHODS.get(name)
    if kind is not None and issubclass(kind, FittedLevels):
        return make_method(name, {"calls": calls, **_settings(kind, text, words)}, _WHERE)
    if name in BASES and (name not in SAMPLERS or (words and _places(words[0]))):
        return _placed(text, name, words or ["even"], calls)
    if name not in SAMPLERS:
        known = [n for n, kind in METHODS.items() if issubclass(kind, FittedLevels)]
        raise UsageError(
            f"{_WHERE} has {name!r}; use any of "
            f"{', '.join(dict.fromkeys([*SAMPLERS, *BASES, *known]))}"
        )
    if words and words[0].startswith("late"):
        check_levels(words[0], _WHERE)
        raise UsageError(f"{_WHERE} has {text!r}; only {', '.join(BASES)} run on placed levels")
    return _plain(text, name, words, spacing, calls)


def _plain(text: str, name: str, words: list[str], spacing: str | None, calls: int) -> Plain:
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
            raise UsageError(f"{_WHERE} has {text!r}: after the name use {_WORDS}")
    check_options(name, found.options)
    return found


def _places(word: str) -> bool:
    """Whether a word after a sampler's name is of ours; diffusers has its own karras levels."""
    return word != "karras" and (is_placement(word) or word.startswith("late"))


def _placed(text: str, base: str, words: list[str], calls: int) -> Placed:
    levels, *rest = words
    check_levels(levels, _WHERE)
    if rest not in ([], ["analytic"]):
        raise UsageError(f"{_WHERE} has {text!r}: after the levels use analytic, or nothing")
    return Placed(calls, base, levels, bool(rest))


def _settings(kind: type[Method], text: str, words: list[str]) -> dict[str, Any]:
    """Settings of a method from `name=value`, by the type of their defaults."""
    defaults = {one.name: one.default for one in fields(kind)}  # type: ignore[arg-type]
    found: dict[str, Any] = {}
    for word in words:
        name, _, value = word.partition("=")
        if name not in defaults or not value:
            raise unknown(f"{_WHERE} has {text!r}: the setting {word!r}", name, defaults)
        found[name] = _typed(defaults[name], value, text)
    return found


def _typed(default: Any, value: str, text: str) -> Any:
    if isinstance(default, bool):
        if value not in ("true", "false"):
            raise UsageError(f"{_WHERE} has {text!r}: {value!r} is neither true nor false")
        return value == "true"
    if isinstance(default, int | float):
        try:
            return type(default)(value)
        except ValueError:
            kind = "whole number" if isinstance(default, int) else "number"
            raise UsageError(f"{_WHERE} has {text!r}: {value!r} is no {kind}") from None
    return value
