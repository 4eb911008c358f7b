"""Putting a plan around the calls of one pipeline object, and taking it away without a trace.

The object's class is exchanged for a subclass that differs in `__call__` alone; only while a call
runs does the pipeline hold a stand-in in the place of its scheduler, and do its networks answer
through `Networks`. Its configuration, its modules and its own scheduler are never changed.
"""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Protocol
from weakref import WeakKeyDictionary

from redi.errors import UsageError
from redi.models.identity import Identity, call_identity, model_identity
from redi.pipeline.networks import Networks
from redi.pipeline.stand_in import Plan, StandIn
from redi.samplers.build import kind_of


class Routed(Plan, Protocol):
    """A plan that is told about every call."""

    def describe(self, call: Identity, generator: Any) -> None:
        """Before a call: what decides it, and the generators that it was given."""
        ...

    def finish(self, stand_in: StandIn, networks: Networks) -> None:
        """After a call that went through."""
        ...


@dataclass
class Session:
    """One pipeline object under redi."""

    plan: Routed
    original: type
    #: what the model is, where nobody can change it meanwhile; None: it is looked at in every call
    model: Identity | None = None
    #: the thread that a call is running in
    running: int | None = None


_SESSIONS: WeakKeyDictionary[Any, Session] = WeakKeyDictionary()


def is_attached(pipe: Any) -> bool:
    return pipe in _SESSIONS


def attach(pipe: Any, plan: Routed, model: Identity | None = None) -> None:
    """Route the calls of `pipe` through `plan`.

    Args:
        model: what the model is as long as the plan is there; None: every call looks at it.
    """
    if is_attached(pipe):
        raise UsageError("this pipeline is under redi already: call redi.disable(pipe) first")
    kind_of(pipe.scheduler)
    original = getattr(type(pipe), "_redi_original", type(pipe))
    _SESSIONS[pipe] = Session(plan, original, model)
    pipe.__class__ = _subclass(original)


def detach(pipe: Any) -> None:
    """Give `pipe` its own class back; nothing else was changed."""
    session = _SESSIONS.pop(pipe, None)
    if session is None:
        return
    routed = type(pipe)
    pipe.__class__ = session.original
    if routed.__dict__["__call__"] is not routed.__dict__["_redi_call"]:  # patched by somebody
        setattr(session.original, "__call__", routed.__dict__["__call__"])  # noqa: B010


def _subclass(original: type) -> type:
    """A class of its own for one pipeline; its `__call__` is looked up anew in every call."""
    fallback = original.__call__  # type: ignore[operator]

    @functools.wraps(fallback)
    def routed(pipe: Any, *args: Any, **kwargs: Any) -> Any:
        session = _SESSIONS.get(pipe)
        if session is None:  # called through a class that was patched while redi was enabled
            return fallback(pipe, *args, **kwargs)
        if session.running == threading.get_ident():
            return fallback(pipe, *args, **kwargs)
        if session.running is not None:
            raise UsageError(
                "another thread is running a call of this pipeline: give each thread a pipeline "
                "of its own"
            )
        call = original.__call__  # type: ignore[operator]
        session.running = threading.get_ident()
        try:
            return _run(session, pipe, call, args, kwargs)
        finally:
            session.running = None

    def reduce(pipe: Any, protocol: int) -> Any:
        """A copy is of the pipeline's own class, and not under redi."""
        made: Any = original.__reduce_ex__(pipe, protocol)  # type: ignore[call-arg]
        kinds = tuple(original if item is type(pipe) else item for item in made[1])
        return (made[0], kinds, *made[2:])

    names = {
        "__call__": routed,
        "__reduce_ex__": reduce,
        "__module__": original.__module__,
        "__doc__": original.__doc__,
        "_redi_original": original,
        "_redi_call": routed,
    }
    return type(original.__name__, (original,), names)


def _run(session: Session, pipe: Any, call: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    own, plan = pipe.scheduler, session.plan
    bound = inspect.signature(call).bind(pipe, *args, **kwargs)
    bound.apply_defaults()
    model = model_identity(pipe) if session.model is None else session.model
    identity = model | call_identity(pipe, call, bound.arguments)
    plan.describe(identity, bound.arguments.get("generator"))
    kind_of(own)
    with Networks(pipe).watched() as networks:
        stand_in = StandIn(deepcopy(own), plan, networks)
        # past DiffusionPipeline.__setattr__, which would rewrite the pipeline's configuration
        object.__setattr__(pipe, "scheduler", stand_in)
        try:
            result = call(pipe, *args, **kwargs)
        finally:
            object.__setattr__(pipe, "scheduler", own)
        plan.finish(stand_in, networks)
    return result
