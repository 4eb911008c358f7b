"""Names of the groups that hold states: one group for each stored step."""

from __future__ import annotations

import re

_NAME = re.compile(r"step_(\d{4,9})")


def step_group(step: int) -> str:
    """Name of the group that holds the states after `step` updates."""
    return f"step_{step:04d}"


def step_of(group: str) -> int | None:
    """The step whose states a group holds; None for a group of something else."""
    found = _NAME.fullmatch(group)
    return int(found[1]) if found and step_group(int(found[1])) == group else None
