"""`redi kb merge | subset | export | import`, and `info | verify` of a folder: no model needed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from redi.errors import UsageError
from redi.knowledge_base import Choice, KnowledgeBase, Manifest, copy_kb, merge, subset, verify
from redi.knowledge_base.hub import kb_folder
from redi.knowledge_base.journal import all_shards
from redi.report.card import licence, write_card
from redi.verbs.kb_info import describe, verify_folder

_FOLDERS = {  # what each action takes, and how many folders at least and at most
    "info": ("a folder, or an id of the hub as hf://owner/name", 1, 1),
    "verify": ("a folder, or an id of the hub as hf://owner/name", 1, 1),
    "merge": ("a target and one or more sources", 2, None),
    "subset": ("a source and a target", 2, 2),
    "export": ("a source and a folder", 2, 2),
    "import": ("a folder, or an id of the hub as hf://owner/name, and a target", 2, 2),
}
_OPTIONS: Mapping[str, Mapping[str, Callable[[str], Any]]] = {
    "subset": {"size": int, "seed": int, "containing": str, "noise": int},
    "export": {"license": licence},
}


def wants_folders(action: str, arguments: list[str]) -> bool:
    """Whether this is an action on folders rather than on a configuration."""
    if action in ("info", "verify"):
        return any("=" not in argument for argument in arguments)
    return action in _FOLDERS


def folder_action(action: str, arguments: list[str], console: Console) -> None:
    """Do one of the actions on folders."""
    named = [a for a in arguments if "=" not in a]
    given = _options(action, [a for a in arguments if "=" in a])
    what, least, most = _FOLDERS[action]
    folders = [Path(a) for a in named]
    if len(folders) < least or (most is not None and len(folders) > most):
        raise UsageError(
            f"kb {action} takes {what}, {len(folders)} given: see 'redi kb {action} --help'"
        )
    if action in ("info", "verify"):
        show = describe if action == "info" else verify_folder
        show(kb_folder(named[0]), console)
        return
    if action == "merge":
        target, *sources = folders
        console.print(f"{merge(target, sources)} shards copied from {len(sources)} KBs")
    elif action == "subset":
        source, target = KnowledgeBase(folders[0]), folders[1]
        rows = Choice(**given).rows(source)
        subset(source, target, rows)
        console.print(f"{len(rows)} of {len(source)} trajectories taken")
    else:
        target = folders[1]
        shards = copy_kb(kb_folder(named[0]) if action == "import" else folders[0], target)
        console.print(f"{shards} shards copied, every hash checked")
        if action == "export":
            write_card(target, Manifest.read(target), given.get("license"))
            console.print(
                f"To the hub: hf upload OWNER/NAME {str(target)!r} --repo-type dataset"
                + ("" if given else "  (no licence is named: license=ID)")
            )
        else:
            verify(target, all_shards(target))
    describe(target, console)


def _options(action: str, options: list[str]) -> dict[str, Any]:
    """The options of `subset` and `export`; no other action has any."""
    given: dict[str, Any] = {}
    has = _OPTIONS.get(action, {})
    for option in options:
        name, _, value = option.partition("=")
        if name not in has:
            known = ", ".join(f"{n}=" for n in has) or "none"
            raise UsageError(f"kb {action} has no option {name!r}; it has {known}")
        try:
            given[name] = has[name](value)
        except UsageError:
            raise
        except ValueError:
            raise UsageError(f"{name}={value!r} is not a whole number: give one") from None
    return given
