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

from redi.config import register
from redi.errors import UsageError

_OPTIONS_WITH_VALUE = ("--cfg", "-c", "--package", "-p")
_PACKAGE = Path(__file__).resolve().parent
#: beside the package in a checkout, inside it in an installed wheel
CONF = next(p for p in (_PACKAGE / "conf", _PACKAGE.parent / "conf") if p.is_dir())


def compose_config(config_name: str, overrides: list[str]) -> Any:
    """The typed configuration object for a list of overrides."""
    register()
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            composed = compose(config_name, overrides)
        return OmegaConf.to_object(composed)
    except (HydraException, OmegaConfBaseException) as error:
        raise UsageError(_sentence(error, overrides)) from error


def points(arguments: list[str]) -> list[list[str]]:
    """Override lists of all points that a command line asks for."""
    options = {i + 1 for i, a in enumerate(arguments) if a in _OPTIONS_WITH_VALUE}
    overrides = [
        a for i, a in enumerate(arguments) if i not in options and not a.startswith(("-", "hydra"))
    ]
    for override in overrides:
        if override[0] in "+~":
            raise UsageError(
                f"{override!r} adds or removes a key, and the keys are fixed: "
                "write key=value; 'redi run --cfg job' lists every key"
            )
    swept = experiment_sweep(overrides)
    if not swept and not {"-m", "--multirun"} & set(arguments):
        return [overrides]
    try:
        parsed = OverridesParser.create().parse_overrides([*swept, *overrides])
        return [list(p) for p in BasicSweeper.split_arguments(parsed, max_batch_size=None)[0]]
    except HydraException as error:
        raise UsageError(_sentence(error, overrides)) from error


def experiments() -> list[str]:
    """Names of the experiments in conf/experiment."""
    return sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))


def chosen_experiment(overrides: list[str]) -> str | None:
    """The experiment that a command line names; a `UsageError` where there is no such file."""
    names = [o.partition("=")[2] for o in overrides if o.startswith("experiment=")]
    if not names or names[-1] == "null":
        return None
    if names[-1] not in experiments():
        raise UsageError(
            f"experiment={names[-1]!r} is unknown; use one of {', '.join(experiments())} "
            "(several in a row: redi experiments NAME NAME)"
        )
    return names[-1]


def experiment_sweep(overrides: list[str]) -> list[str]:
    """What the named experiment varies, as overrides; nothing where none is named."""
    name = chosen_experiment(overrides)
    if name is None:
        return []
    content = OmegaConf.load(CONF / "experiment" / f"{name}.yaml")
    params = OmegaConf.select(content, "hydra.sweeper.params")
    return [f"{key}={value}" for key, value in params.items()]


def _sentence(error: Exception, overrides: list[str]) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    cause = error.__cause__
    if cause is not None and str(cause) and str(cause).splitlines()[0] not in lines:
        lines.append(str(cause).splitlines()[0])
    kept = [line for line in lines if not line.startswith(("To append", "See https", "full_key"))]
    kept = [line for line in kept if not line.startswith(("reference_type", "object_type"))]
    given = f" (given: {' '.join(overrides)})" if overrides else ""
    return "; ".join(dict.fromkeys(kept)) + f"{given}: 'redi run --cfg job' lists every key"
