"""All metrics there are: every module of this folder is imported, and registers what it holds."""

from __future__ import annotations

import importlib
import pkgutil

import redi.metrics
from redi.config import Config
from redi.errors import UsageError, unknown
from redi.metrics.base import METRICS, Metric, Quality
from redi.metrics.long_prompts import LONG_PROMPTS
from redi.metrics.needs import Missing, Needs

for _module in pkgutil.iter_modules(redi.metrics.__path__, "redi.metrics."):
    if _module.name != __name__:
        importlib.import_module(_module.name)


def words() -> list[str]:
    """What `metrics.hooks` takes: groups first, then single metrics."""
    return list(dict.fromkeys([*(m.group for m in METRICS.values()), *METRICS]))


def qualities() -> dict[str, Quality]:
    """Every column that some metric makes, by name."""
    found = [q for kind in METRICS.values() for q in kind.qualities]
    return {q.name: q for q in sorted(found, key=lambda q: q.place)}


def wanted(config: Config) -> list[type[Metric]]:
    """The metrics that `metrics.hooks` names; refuses unknown words and impossible metrics."""
    hooks, known = list(config.metrics.hooks), words()
    for word in hooks:
        if word not in known:
            raise unknown(f"metrics.hooks has {word!r}, which", word, known)
    how = config.metrics.long_prompts
    if how not in LONG_PROMPTS:
        raise unknown(f"metrics.long_prompts={how!r}", how, LONG_PROMPTS)
    if "cost" not in hooks:
        raise UsageError("metrics.hooks lacks 'cost': no result stands without its network calls")
    found = [kind for kind in METRICS.values() if {kind.name, kind.group} & set(hooks)]
    for kind in found:
        kind.check(config)
    return [kind for kind in found if kind.applies(config)]


def metrics_from(config: Config) -> tuple[list[Metric], list[str]]:
    """The configured metrics whose needs are there, and a sentence for each missing need."""
    needs, found, notes = Needs(config), [], []
    for kind in wanted(config):
        try:
            found.append(kind(config, {name: needs.load(name) for name in kind.needs}))
        except Missing as missing:
            notes.append(str(missing))
    return found, list(dict.fromkeys(notes))
