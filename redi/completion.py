"""Completion in a shell: verbs here, groups and keys by Hydra.

`eval "$(redi -sc install=bash)"` installs it (also zsh and fish). The shell then asks with
`redi -sc query=bash`, and the line so far in the environment variable COMP_LINE.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import hydra

from redi.composition import CONF
from redi.schemas import SCHEMAS, register


def complete(arguments: list[str], verbs: Sequence[str]) -> None:
    """Answer a shell's question, or print what installs completion."""
    line = os.environ.get("COMP_LINE", "")
    line = line[: int(os.environ.get("COMP_POINT") or len(line))]
    _, _, rest = line.partition(" ")
    first, space, after = rest.partition(" ")
    config_name = "run"
    if any(argument.startswith("query=") for argument in arguments):
        if not space:
            print(" ".join(verb for verb in verbs if verb.startswith(first)))
        elif first in verbs:  # Hydra knows no verbs
            config_name, rest = first if first in SCHEMAS else "run", after
        os.environ["COMP_LINE"] = f"redi {rest}"
        os.environ["COMP_POINT"] = str(len(os.environ["COMP_LINE"]))
    register()
    sys.argv = [sys.argv[0], *arguments]
    hydra.main(version_base="1.3", config_path=str(CONF), config_name=config_name)(_nothing)()


def _nothing(config: object) -> None:
    return
