"""Composing configurations from conf/ with errors in one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from redi.arguments import MULTIRUN, WITH_VALUE, checked, groups_of
from redi.errors import UsageError, unknown
from redi.ranges import check_ranges
from redi.schemas import SCHEMAS, register

_PACKAGE = Path(__file__).resolve().parent
#: beside the package in a checkout, inside it in an installed wheel
CONF = next(p for p in (_PACKAGE / "conf", _PACKAGE.parent / "conf") if p.is_dir())


def compose_config(config_name: str, overrides: list[str]) -> Any:
    """The typed configuration object for a list of overrides."""
    register()
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            composed = compose(config_name, overrides)
        config = OmegaConf.to_object(composed)
    except (HydraException, OmegaConfBaseException) as error:
        raise UsageError(_sentence(error)) from error
    _require_mandatory(config, config_name, overrides)
    check_ranges(config)
    return config


def checked_arguments(config_name: str, arguments: list[str]) -> list[str]:
    """The arguments of a verb as Hydra can read them; see `redi.arguments.checked`."""
    return checked(arguments, SCHEMAS[config_name], CONF, config_name)


def points(arguments: list[str]) -> list[list[str]]:
    """Override lists of all points that a command line asks for."""
    options = {i + 1 for i, a in enumerate(arguments) if a in WITH_VALUE}
    overrides = [
        a for i, a in enumerate(arguments) if i not in options and not a.startswith(("-", "hydra"))
    ]
    swept = experiment_sweep(overrides)
    if not swept and not {*MULTIRUN} & set(arguments):
        return [overrides]
    try:
        parsed = OverridesParser.create().parse_overrides([*swept, *overrides])
        return [list(p) for p in BasicSweeper.split_arguments(parsed, max_batch_size=None)[0]]
    except HydraException as error:
        raise UsageError(_sentence(error)) from error


def experiments() -> list[str]:
    """Names of the experiments in conf/experiment."""
    return sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))


def chosen_experiment(overrides: list[str]) -> str | None:
    """The experiment that a command line names; a `UsageError` where there is no such file."""
    names = [o.partition("=")[2] for o in overrides if o.startswith("experiment=")]
    if not names or names[-1] == "null":
        return None
    if names[-1] not in experiments():
        raise unknown(f"experiment={names[-1]!r}", names[-1], experiments())
    return names[-1]


def experiment_sweep(overrides: list[str]) -> list[str]:
    """What the named experiment varies, as overrides; nothing where none is named."""
    name = chosen_experiment(overrides)
    if name is None:
        return []
    content = OmegaConf.load(CONF / "experiment" / f"{name}.yaml")
    params = OmegaConf.select(content, "hydra.sweeper.params")
    return [f"{key}={value}" for key, value in params.items()]


def _require_mandatory(config: Any, config_name: str, overrides: list[str]) -> None:
    """Refuse a group's choice whose `???` nobody filled.

    OmegaConf drops a `???` that meets a default, so that a model without its path would silently
    be another model.
    """
    for group in groups_of(CONF, config_name):
        chosen = [o.partition("=")[2] for o in overrides if o.startswith(f"{group}=")]
        path = CONF / group / f"{chosen[-1]}.yaml" if chosen else None
        if path is None or not path.is_file() or group == "experiment":
            continue
        content = OmegaConf.load(path)
        for name in map(str, content):
            empty = getattr(getattr(config, group), name, "") is None
            if OmegaConf.is_missing(content, name) and empty:
                raise UsageError(
                    f"{group}={chosen[-1]} needs {group}.{name}: add {group}.{name}=VALUE"
                )


def _sentence(error: Exception) -> str:
    """What Hydra says over several lines, in one, without its advice for programmers."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    cause = error.__cause__
    if cause is not None and str(cause) and str(cause).splitlines()[0] not in lines:
        lines.append(str(cause).splitlines()[0])
    dropped = ("To append", "See https", "full_key", "reference_type", "object_type", "Set the env")
    kept = [line for line in lines if not line.startswith(dropped)]
    return "; ".join(dict.fromkeys(kept)) + ": 'redi run --cfg job' lists every key"
