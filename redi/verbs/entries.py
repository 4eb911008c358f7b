"""What a run evaluates: every method that its configuration names, with its settings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

from redi.config import Config
from redi.errors import UsageError
from redi.methods import METHODS, Fitted, Method, Setup
from redi.methods.corrected import Adaptive, Corrected, Recipe
from redi.methods.plain import Full, Plain, Switch, with_calls
from redi.methods.redi import ReDi
from redi.report.labels import method_label
from redi.verbs.rivals import rival

#: what puts the methods in proportion, and is none itself
REFERENCES = {
    "switch": "a full run with the query's early prompt until the key step",
    "content": "a full run with the query's early prompt alone",
    "other_noise": "a full run from another noise",
    "other_precision": "a full run in other_dtype",
}


#: what only some methods have
_COLUMNS = ("key_step", "value_step", "kb_size", "neighbours", "estimator", "resume")


def baselines() -> tuple[str, ...]:
    """What `baselines` may name."""
    controls = [n for n, kind in METHODS.items() if issubclass(kind, ReDi) and kind is not ReDi]
    return ("plain", *controls, *REFERENCES)


@dataclass(frozen=True)
class Entry:
    """One method of a run, bound or not, and how the results call it."""

    key: str  # of the run alone; nobody reads it
    method: Method
    label: str
    #: whether its network answers are kept for other points
    shared: bool = False
    #: columns that say more than the method does
    columns: tuple[tuple[str, Any], ...] = ()

    def bind(self, setup: Setup) -> Entry:
        """The same with a method that can run."""
        return Entry(self.key, self.method.bind(setup), self.label, self.shared, self.columns)

    def describe(self) -> dict[str, Any]:
        """Columns of its point."""
        told = {**self.method.describe(), **dict(self.columns), "label": self.label}
        return dict.fromkeys(_COLUMNS) | told


def jumping(name: str, setting: ReDi, config: Config) -> ReDi:
    """ReDi or one of its controls, with the settings of the run."""
    kind = METHODS[name]
    assert issubclass(kind, ReDi)
    made = kind(**{field.name: getattr(setting, field.name) for field in fields(ReDi)})
    if kind is not ReDi:  # controls jump with every query
        made.max_distance = made.tolerance = None
    return made


def entries_of(config: Config, setting: ReDi, setup: Setup) -> Iterator[Entry]:
    """Every entry of a run, unbound, in the order of the table."""
    wanted = config.baselines
    yield Entry("full", Full(), method_label("full"), shared=True)
    yield Entry("redi", jumping("redi", setting, config), method_label("redi"))
    if "plain" in wanted:
        yield Entry(
            "plain", equal_calls(config, setting, setup), method_label("plain"), shared=True
        )
    for name in METHODS:
        if name in wanted and issubclass(METHODS[name], ReDi):
            yield Entry(name, jumping(name, setting, config), method_label(name))
    chosen = config.correction
    for calls in chosen.calls:
        for text in chosen.against:
            method = rival(text, config.sampler.timestep_spacing, calls)
            if isinstance(method, Plain) and not _can_run(method, setup):
                continue  # PNDM's warm-up takes more
            key, told = f"plain@{calls}:{text}", (("sampler", text),)
            label = f"{text}, {calls} calls"
            yield Entry(key, method, label, isinstance(method, Plain), told)
    for number, fitted in enumerate(fitted_methods(config)):
        budget = str(fitted.calls) if isinstance(fitted, Corrected) else "adaptive"
        if number < len(chosen.calls) + (chosen.tolerance is not None):
            label = f"{Corrected.title}, {budget} calls"
            yield Entry(f"corrected@{budget}", fitted, label)
    for label, method in config.methods.items():
        yield Entry(f"methods.{label}", method, label)
    if "switch" in wanted:
        yield Entry("switch", Switch(setting.key_step or 1), method_label("switch"))
    for name in ("content", "other_noise", "other_precision"):
        if name in wanted:
            prompt = "early" if name == "content" else "own"
            yield Entry(name, Full(prompt), method_label(name), True, (("method", name),))


def fitted_methods(config: Config) -> list[Fitted]:
    """Methods of a run that are fitted to the KB first."""
    chosen, recipe = config.correction, recipe_from(config)
    found: list[Fitted] = [Corrected(calls, recipe) for calls in chosen.calls]
    if chosen.tolerance is not None:
        found.append(Adaptive(tuple(chosen.calls), recipe, chosen.tolerance, chosen.risk))
    for name, method in config.methods.items():
        if not isinstance(method, Method):
            raise UsageError(
                f"methods.{name}={method!r} is no method: use +methods=NAME with a NAME of "
                "'redi methods'"
            )
    for calls in chosen.calls:
        against = [rival(text, config.sampler.timestep_spacing, calls) for text in chosen.against]
        found += [method for method in against if isinstance(method, Fitted)]
    return found + [method for method in config.methods.values() if isinstance(method, Fitted)]


def equal_calls(config: Config, setting: ReDi, setup: Setup) -> Plain:
    """The same sampler, evenly spread, with exactly as many network calls as ReDi."""
    sampler, chosen = setup.sampler, config.sampler
    k, v = setting.steps_of(None, sampler.num_steps)
    calls = sampler.calls(0, k) + sampler.calls(v, sampler.num_steps)
    plain = Plain(
        calls, chosen.name, chosen.order, chosen.timestep_spacing, chosen.use_karras_sigmas
    )
    if not _can_run(plain, setup):
        raise UsageError(
            f"sampler={chosen.name} cannot run with {calls} network calls for the baseline "
            "'plain': raise kb.key_step or lower retrieval.value_step"
        )
    return plain


def _can_run(plain: Plain, setup: Setup) -> bool:
    solver = plain.solver or setup.sampler.name
    return with_calls(solver, plain.options, setup.schedule, plain.calls) is not None


def recipe_from(config: Config) -> Recipe:
    """How corrections are fitted; refuses unknown names."""
    chosen = config.correction
    for text in chosen.against:
        rival(text, config.sampler.timestep_spacing)
    if chosen.tolerance is not None:
        if not chosen.tolerance > 0:
            raise UsageError(
                f"correction.tolerance={chosen.tolerance} is no error: give a positive number, "
                "such as 0.05"
            )
        if not 0 < chosen.risk < 1:
            raise UsageError(f"correction.risk={chosen.risk} is no share: use more than 0, below 1")
        if len(chosen.calls) < 2 or chosen.states != "visited":
            raise UsageError(
                f"correction.tolerance={chosen.tolerance} chooses between budgets by left-out "
                "errors: give correction.calls at least two numbers and keep "
                "correction.states=visited"
            )
    if len(set(chosen.calls)) != len(chosen.calls):
        raise UsageError(f"correction.calls={list(chosen.calls)} names a budget twice")
    given: dict[str, Any] = {field.name: getattr(chosen, field.name) for field in fields(Recipe)}
    given = {n: tuple(v) if isinstance(v, list) else v for n, v in given.items()}
    return Recipe(**given)
