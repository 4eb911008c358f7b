"""What stands on a command line before Hydra reads it: options, and `key=value` in a fixed form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf

from redi.errors import UsageError, unknown
from redi.methods import METHODS

MULTIRUN = ("-m", "--multirun")
WITH_VALUE = ("--cfg", "-c", "--package", "-p")
OPTIONS = (*MULTIRUN, *WITH_VALUE, "--resolve", "--hydra-help", "--version")
_LISTED = "'redi run --cfg job' lists every key"


def checked(arguments: Sequence[str], schema: type, root: Path, config_name: str) -> list[str]:
    """The arguments as Hydra can read them: values that its grammar lacks are quoted.

    Args:
        arguments: all that follows the verb.
        schema: dataclass of the configuration that they change.
        root: folder of the configuration files, a folder for each group.
        config_name: the file in `root` whose defaults list names the groups.

    Raises:
        UsageError: an option, key or group choice that does not exist, or no `key=value`.
    """
    groups, keys = groups_of(root, config_name), keys_of(schema)
    sweeps = {*MULTIRUN} & {*arguments} or any(a.startswith("experiment=") for a in arguments)
    many = bool(sweeps)
    found: list[str] = []
    for i, argument in enumerate(arguments):
        if argument.startswith("-"):
            if argument.partition("=")[0] not in OPTIONS:
                raise unknown(f"option {argument!r}", argument, OPTIONS)
            found.append(argument)
        elif i and arguments[i - 1] in WITH_VALUE:
            found.append(argument)
        else:
            found.append(_override(argument, groups, keys, many))
    return found


def groups_of(root: Path, config_name: str) -> dict[str, list[str]]:
    """Choices of every group in the defaults list of a configuration file."""
    listed: Any = OmegaConf.load(root / f"{config_name}.yaml")
    names = [name for entry in listed.defaults if not isinstance(entry, str) for name in entry]
    return {
        name: sorted(path.stem for path in (root / name).glob("*.yaml"))
        for name in names
        if (root / name).is_dir()
    }


def keys_of(schema: type, prefix: str = "") -> list[str]:
    """Dotted names of all keys of a configuration dataclass."""
    hints, keys = get_type_hints(schema), []
    for entry in fields(schema):
        name = prefix + entry.name
        keys.append(name)
        if is_dataclass(hints[entry.name]):
            keys += keys_of(hints[entry.name], f"{name}.")
    return keys


def _override(argument: str, groups: dict[str, list[str]], keys: list[str], many: bool) -> str:
    key, equals, value = argument.partition("=")
    if key == "+methods":
        return _methods(argument, value)
    if argument[:1] in ("+", "~"):
        raise UsageError(
            f"{argument!r} adds or removes a key, and the keys are fixed: "
            f"write key=value; {_LISTED}"
        )
    if not key or not equals:
        raise UsageError(f"{argument!r} is not key=value: write for example kb.size=96; {_LISTED}")
    if key in groups:
        for choice in value.split(",") if many else [value]:
            if choice.strip() not in (*groups[key], "null") and "(" not in value:
                raise unknown(f"{key}={choice!r}", choice, groups[key])
    elif key not in keys and not key.startswith(("hydra", "methods.")):
        shown = unknown(f"key {key!r}", key, [*keys, *groups])
        raise UsageError(f"{str(shown).partition('; use one of')[0]}: {_LISTED}")
    problem = _problem(argument)
    if problem is None:
        return argument
    quoted = _quoted(key, value, many)
    if quoted is None:
        raise UsageError(f"{argument!r} cannot be read ({problem}): quote the value, or close it")
    return quoted


def _methods(argument: str, value: str) -> str:
    """`+methods=NAME`, or several as [NAME,NAME], which add methods with their defaults."""
    for name in value.strip("[]").split(","):
        if name.strip() not in METHODS:
            raise unknown(f"+methods={name!r}", name, METHODS)
    return argument


def _problem(argument: str) -> str | None:
    """What Hydra's grammar does not understand; None where it does."""
    try:
        OverridesParser.create().parse_override(argument)
    except HydraException as error:
        return str(error.__cause__ or error).splitlines()[0]
    return None


def _quoted(key: str, value: str, many: bool) -> str | None:
    """The value as a quoted text, such as a path in another script; None for broken syntax."""
    if set(value) & set("[]{}'\"") or ("," in value and many):
        return None
    escaped = value.replace("\\", "\\\\")
    return f'{key}="{escaped}"'
