"""Ranges of numbers, declared beside the field that they bound and checked in one place."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

from redi.errors import UsageError

#: largest seed that every generator takes
SEED = 2**32 - 1


@dataclass(frozen=True)
class Range:
    """From `least` to `most`, both included."""

    least: float
    most: float = math.inf

    def __str__(self) -> str:
        if math.isinf(self.most):
            return f"at least {_written(self.least)}"
        return f"{_written(self.least)} to {_written(self.most)}"

    def check(self, name: str, value: float, told: str = "=") -> None:
        """Refuse a number outside, or none at all; `told` stands between the name and the value."""
        if math.isnan(value):
            raise UsageError(f"{name}{told}{value} is not a number: use {self}")
        if value < self.least:
            least = _written(self.least)
            raise UsageError(f"{name}{told}{value} is too small: use at least {least}")
        if value > self.most or math.isinf(value):
            limit = "a finite number" if math.isinf(self.most) else f"at most {_written(self.most)}"
            raise UsageError(f"{name}{told}{value} is too large: use {limit}")


def within(default: Any, least: float, most: float = math.inf) -> Any:
    """A field of a configuration whose number, where there is one, lies in a range."""
    return field(default=default, metadata={"range": Range(least, most)})


def each(default: Sequence[float], least: float, most: float = math.inf) -> Any:
    """A field of a configuration that lists numbers, all in a range."""
    return field(default_factory=lambda: list(default), metadata={"range": Range(least, most)})


def check_ranges(config: Any, prefix: str = "") -> None:
    """Refuse the first number of a configuration, or of a part of it, that is out of its range.

    Raises:
        UsageError: names the field as the command line does, the value and the bound.
    """
    for entry in fields(config):
        name, value = prefix + entry.name, getattr(config, entry.name)
        if is_dataclass(value):
            check_ranges(value, f"{name}.")
        bound = entry.metadata.get("range")
        if bound is None or value is None:
            continue
        if isinstance(value, int | float):
            bound.check(name, value)
        else:
            for number in value:
                bound.check(name, number, " has ")


def _written(number: float) -> str:
    return str(int(number)) if number == int(number) else f"{number:g}"
