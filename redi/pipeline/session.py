"""Putting a plan around the calls of one pipeline object, and taking it away without a trace.

The object's class is exchanged for a subclass that differs in `__call__` alone; only while a call
runs does the pipeline hold a proxy in the place of its scheduler. Its configuration, its modules
and its own scheduler object are never touched.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from redi.errors import UsageError
from redi.models.identity import Identity, call_identity, model_identity
from redi.pipeline.proxy import Plan, SchedulerProxy
from redi.samplers.build import kind_of


@dataclass
class Session:
    """One pipeline object under redi."""

    plan: Plan
    #: told the identity of every call before it runs
    describe: Callable[[Identity], None]
    original: type
    #: what stands in the place of the scheduler while a call runs
    proxy: type[SchedulerProxy]


_SESSIONS: WeakKeyDictionary[Any, Session] = WeakKeyDictionary()


def is_attached(pipe: Any) -> bool:
    return pipe in _SESSIONS


def attach(
    pipe: Any,
    plan: Plan,
    describe: Callable[[Identity], None],
    proxy: type[SchedulerProxy] = SchedulerProxy,
) -> None:
    """Route the calls of `pipe` through `plan`."""
    if is_attached(pipe):
        raise UsageError("this pipeline is under redi already: call redi.disable(pipe) first")
    kind_of(pipe.scheduler)
    original = type(pipe)
    _SESSIONS[pipe] = Session(plan, describe, original, proxy)
    pipe.__class__ = _subclass(original)  # type: ignore[arg-type]  # classes are hashable


def detach(pipe: Any) -> None:
    """Give `pipe` its own class back; nothing else was changed."""
    session = _SESSIONS.pop(pipe, None)
    if session is not None:
        pipe.__class__ = session.original


@functools.cache
def _subclass(original: type) -> type:
    call = original.__call__  # type: ignore[operator]

    @functools.wraps(call)
    def routed(pipe: Any, *args: Any, **kwargs: Any) -> Any:
        return _run(pipe, call, args, kwargs)

    names = {"__call__": routed, "__module__": original.__module__, "__doc__": original.__doc__}
    return type(original.__name__, (original,), names)


def _run(pipe: Any, call: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    session, own = _SESSIONS.get(pipe), pipe.scheduler
    if session is None:  # a copy of an enabled pipeline
        return call(pipe, *args, **kwargs)
    bound = inspect.signature(call).bind(pipe, *args, **kwargs)
    bound.apply_defaults()
    session.describe(model_identity(pipe) | call_identity(pipe, call, bound.arguments))
    kind_of(own)
    # past DiffusionPipeline.__setattr__, which would rewrite the pipeline's configuration
    object.__setattr__(pipe, "scheduler", session.proxy(deepcopy(own), session.plan))
    try:
        return call(pipe, *args, **kwargs)
    finally:
        object.__setattr__(pipe, "scheduler", own)
