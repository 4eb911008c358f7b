"""The KB that `kb.dir` names: a folder, or an id of the hub, downloaded once for a command."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from redi.config import KBConfig
from redi.errors import UsageError
from redi.knowledge_base.hub import HUB, kb_folder


def named_kb(config: KBConfig) -> Path | None:
    """The folder of the KB that `kb.dir` names, None where it names none.

    Raises:
        UsageError: a KB of the hub that cannot be had.
    """
    if config.dir is None:
        return None
    return _downloaded(config.dir) if on_hub(config) else Path(config.dir)


def on_hub(config: KBConfig) -> bool:
    """Whether `kb.dir` is an id of the hub: such a KB is used as it is and never built into."""
    return config.dir is not None and config.dir.startswith(HUB)


def refuse_hub(config: KBConfig) -> None:
    """Refuse to build into a KB of the hub."""
    if on_hub(config):
        raise UsageError(
            f"kb.dir={config.dir!r} is a KB of the hub, which is not built into: "
            f"'redi kb import {config.dir} DIR' makes a folder of yours for kb.dir=DIR"
        )


@cache
def _downloaded(name: str) -> Path:
    """One answer for a whole command, whatever is pushed to the hub meanwhile."""
    return kb_folder(name)
