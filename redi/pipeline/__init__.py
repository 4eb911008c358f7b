"""redi on a user's own diffusers pipeline: enable, disable, summary, record, fit."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any
from weakref import WeakKeyDictionary

from redi.errors import UsageError
from redi.knowledge_base import KnowledgeBase
from redi.knowledge_base.hub import opened as open_kb
from redi.methods import Fitted, Method, make_method, method_called
from redi.methods.redi import ReDi
from redi.models.identity import Identity, model_identity, require_same
from redi.pipeline.choosing import fit
from redi.pipeline.fitting import check_stored, reference_setup
from redi.pipeline.noise import generators, noise_of
from redi.pipeline.plans import UseMethod
from redi.pipeline.recording import record
from redi.pipeline.session import attach, detach
from redi.pipeline.tally import Summary
from redi.samplers.build import kind_of

__all__ = [
    "Enabled",
    "Summary",
    "disable",
    "enable",
    "fit",
    "generators",
    "noise_of",
    "record",
    "summary",
]

_SUMMARIES: WeakKeyDictionary[Any, Summary] = WeakKeyDictionary()


class Enabled:
    """What `enable` returns: a context manager that disables at its end."""

    def __init__(self, pipe: Any) -> None:
        self.pipe = pipe

    def __enter__(self) -> Any:
        return self.pipe

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        disable(self.pipe)


def enable(
    pipe: Any,
    kb: str | Path | KnowledgeBase | None,
    method: str | Method = "redi",
    *,
    num_inference_steps: int | None = None,
    **settings: Any,
) -> Enabled:
    """Let an unmodified diffusers pipeline spend its network calls as a method does.

    Until `disable(pipe)` or the end of the `with` block. With "redi" each call runs to the key
    step, goes on from the value step of the nearest trajectories and leaves out the network calls
    between; with "corrected" each call takes a few large steps, every one corrected by what the
    trajectories lost over it.

    Args:
        kb: folder of a KB made by `record` or `redi kb build`, its id on the Hugging Face hub as
            `hf://owner/name`, or an opened one; None for methods that need none.
        method: a name (`redi.METHODS`), or an object such as `redi.ReDi(value_step=35)`.
        num_inference_steps: of every call, for methods with few levels of their own ("corrected":
            the number given to `fit`).
        settings: of a method given by name, such as key_step, value_step, neighbours, estimator,
            weights, resume, max_distance, tolerance and risk of "redi".

    Raises:
        UsageError: the KB does not fit the pipeline (the differing fields are named), the sampler
            is stochastic, or the steps are not stored. What only a call can tell, such as its
            guidance scale, is refused in that call before the network is run.
    """
    opened = None if kb is None else open_kb(kb)
    chosen = _method(method, num_inference_steps, settings)
    if opened is not None:
        _check(pipe, chosen, opened)
    found = Summary()
    attach(pipe, UseMethod(chosen, opened, found))
    _SUMMARIES[pipe] = found
    return Enabled(pipe)


def _method(method: str | Method, steps: int | None, settings: dict[str, Any]) -> Method:
    given = {name: value for name, value in settings.items() if value is not None}
    if isinstance(method, Method):
        if steps is not None:
            given["num_inference_steps"] = steps
        if given:
            name, value = next(iter(given.items()))
            raise UsageError(
                f"{name}={value!r} does nothing with a method that is given as an object: set it "
                f"in {type(method).__name__}(...)"
            )
        return method
    if steps is not None:
        given["num_inference_steps"] = steps
    made = make_method(method, _calls_named(method, given))
    if isinstance(made, ReDi) and made.value_step is None and made.tolerance is None:
        raise UsageError(f"method={method!r} needs value_step: give it")
    if "calls" in made.settings() and steps is None and "calls" not in given:
        raise UsageError(f"method={method!r} needs num_inference_steps: give it")
    return made


def _calls_named(method: str, given: dict[str, Any]) -> dict[str, Any]:
    """Settings with the number of steps under the name that methods have for it."""
    kind = method_called(method)
    if "num_inference_steps" in given and "calls" in kind.__dataclass_fields__:  # type: ignore[attr-defined]
        given = {**given, "calls": given["num_inference_steps"]}
        del given["num_inference_steps"]
    return given


def _check(pipe: Any, method: Method, kb: KnowledgeBase) -> None:
    """What can be refused before a call."""
    if isinstance(method, Fitted):
        setup = reference_setup(pipe, kb)
        check_stored(method, setup)
        if not method.is_fitted(setup):
            calls = getattr(method, "calls", None)
            raise UsageError(
                f"num_inference_steps={calls} has no fitted {method.name!r} beside the KB "
                f"{str(kb.root)!r}: call redi.fit(pipe, kb, num_inference_steps={calls}, ...) once"
            )
        method.bind(setup)
        return
    if isinstance(method, ReDi):
        steps = int(kb.manifest.identity["steps"])
        method.check(*method.steps_of(kb.key_step, steps), steps)
    sampler = Identity({"sampler": kind_of(pipe.scheduler)[0]})
    require_same(kb, model_identity(pipe) | sampler)


def disable(pipe: Any) -> None:
    """Make the pipeline what it was before `enable`; its summary can still be read."""
    detach(pipe)


def summary(pipe: Any) -> Summary:
    """Hits, distances, network calls made and saved, and retrieval time since `enable`."""
    if pipe not in _SUMMARIES:
        raise UsageError("this pipeline was never enabled: call redi.enable(pipe, kb, ...) first")
    return _SUMMARIES[pipe]
