"""The one exception for what a user can put right: a single sentence, printed without a trace."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class UsageError(ValueError):
    """Names the field, its value and the fix."""


def unknown(told: str, value: str, known: Iterable[str]) -> UsageError:
    """The refusal of a name that is none of `known`; `told` is the field with its value.

    A known name that differs by little is suggested.
    """
    names = list(known)
    near = get_close_matches(value, names, 1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    return UsageError(f"{told} is unknown{hint}; use one of {', '.join(names)}")
