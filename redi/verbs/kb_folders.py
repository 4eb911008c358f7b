"""`redi kb merge | subset | export | import`, and `info | verify` of a folder: no model needed."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from redi.errors import UsageError
from redi.knowledge_base import Choice, KnowledgeBase, Manifest, copy_kb, merge, subset, verify
from redi.knowledge_base.journal import all_shards
from redi.report.card import write_card
from redi.verbs.kb_info import describe, verify_folder

_FOLDERS = {  # what each action takes, and how many folders at least and at most
    "info": ("a folder", 1, 1),
    "verify": ("a folder", 1, 1),
    "merge": ("a target and one or more sources", 2, None),
    "subset": ("a source and a target", 2, 2),
    "export": ("a source and a folder", 2, 2),
    "import": ("a folder and a target", 2, 2),
}
_OPTIONS = {"size": int, "seed": int, "containing": str, "noise": int}


def wants_folders(action: str, arguments: list[str]) -> bool:
    """Whether this is an action on folders rather than on a configuration."""
    if action in ("info", "verify"):
        return any("=" not in argument for argument in arguments)
    return action in _FOLDERS


def folder_action(action: str, arguments: list[str], console: Console) -> None:
    """Do one of the actions on folders."""
    folders = [Path(a) for a in arguments if "=" not in a]
    choice = _choice(action, [a for a in arguments if "=" in a])
    what, least, most = _FOLDERS[action]
    if len(folders) < least or (most is not None and len(folders) > most):
        raise UsageError(
            f"kb {action} takes {what}, {len(folders)} given: see 'redi kb {action} --help'"
        )
    if action == "info":
        describe(folders[0], console)
        return
    if action == "verify":
        verify_folder(folders[0], console)
        return
    if action == "merge":
        target, *sources = folders
        console.print(f"{merge(target, sources)} shards copied from {len(sources)} KBs")
    elif action == "subset":
        source, target = KnowledgeBase(folders[0]), folders[1]
        rows = choice.rows(source)
        subset(source, target, rows)
        console.print(f"{len(rows)} of {len(source)} trajectories taken")
    else:
        target = folders[1]
        shards = copy_kb(folders[0], target)
        console.print(f"{shards} shards copied, every hash checked")
        if action == "export":
            write_card(target, Manifest.read(target))
        else:
            verify(target, all_shards(target))
    describe(target, console)


def _choice(action: str, options: list[str]) -> Choice:
    """The options of `subset`; no other action has any."""
    given: dict[str, int | str] = {}
    for option in options:
        name, _, value = option.partition("=")
        if action != "subset" or name not in _OPTIONS:
            known = ", ".join(f"{n}=" for n in _OPTIONS) if action == "subset" else "none"
            raise UsageError(f"kb {action} has no option {name!r}; it has {known}")
        try:
            given[name] = _OPTIONS[name](value)
        except ValueError:
            raise UsageError(f"{name}={value!r} is not a whole number: give one") from None
    return Choice(**given)  # type: ignore[arg-type]
