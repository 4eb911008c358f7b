"""redi on a user's own diffusers pipeline: enable, disable, summary, record, fit."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any
from weakref import WeakKeyDictionary

from redi.errors import UsageError
from redi.inference import Setting
from redi.knowledge_base import KnowledgeBase
from redi.models.identity import pipeline_identity, require_same
from redi.pipeline.coarse import CoarseProxy, Corrected
from redi.pipeline.corrected import fit, fitted
from redi.pipeline.noise import generators
from redi.pipeline.recording import record
from redi.pipeline.retrieve import Retrieval
from redi.pipeline.session import attach, detach
from redi.pipeline.tally import Summary

__all__ = ["Enabled", "Summary", "disable", "enable", "fit", "generators", "record", "summary"]

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
    kb: str | Path | KnowledgeBase,
    *,
    method: str = "redi",
    key_step: int | None = None,
    value_step: int | None = None,
    neighbours: int | None = None,
    estimator: str | None = None,
    weights: str | None = None,
    resume: str | None = None,
    max_distance: float | None = None,
    num_inference_steps: int | None = None,
) -> Enabled:
    """Let an unmodified diffusers pipeline profit from the trajectories of a knowledge base.

    Until `disable(pipe)` or the end of the `with` block, with `method="redi"` each call runs to the
    key step, goes on from the value step of the nearest trajectories and leaves out the network
    calls between; with `method="corrected"` each call takes a few large steps, every one corrected
    by what the trajectories lost over it.

    Args:
        kb: folder of a KB made by `record` or `redi kb build`, or an opened one.
        method: "redi" or "corrected".
        key_step: None takes the KB's (redi).
        value_step: where to go on (redi).
        neighbours, estimator, weights, resume: as `retrieval.*` in the configuration; None takes
            one neighbour and what the paper does (redi).
        max_distance: a batch in which a nearest key is farther than this runs in full (redi).
        num_inference_steps: of every call, the number given to `fit` (corrected).

    Raises:
        UsageError: the KB does not fit the pipeline (the differing fields are named), the sampler
            is stochastic, or the steps are not stored. What only a call can tell, such as its
            guidance scale, is refused in that call before the network is run.
    """
    jump = {
        "key_step": key_step,
        "value_step": value_step,
        "neighbours": neighbours,
        "estimator": estimator,
        "weights": weights,
        "resume": resume,
        "max_distance": max_distance,
    }
    _check_method(method, jump, {"num_inference_steps": num_inference_steps})
    opened = kb if isinstance(kb, KnowledgeBase) else KnowledgeBase(Path(kb))
    found = Summary()
    if num_inference_steps is not None:
        steps = Corrected(opened, fitted(pipe, opened, num_inference_steps), found)
        attach(pipe, steps, steps.describe, CoarseProxy)
    else:
        setting = _setting(opened, jump)
        require_same(opened, pipeline_identity(pipe))
        plan = Retrieval(opened, setting, max_distance, found)
        attach(pipe, plan, plan.describe)
    _SUMMARIES[pipe] = found
    return Enabled(pipe)


def _check_method(method: str, jump: dict[str, Any], few: dict[str, Any]) -> None:
    """Refuse unknown methods, and arguments that are missing or would do nothing."""
    takes = {"redi": (jump, "value_step", few), "corrected": (few, "num_inference_steps", jump)}
    if method not in takes:
        raise UsageError(f"method={method!r} is unknown; use one of {', '.join(takes)}")
    own, needed, others = takes[method]
    if own[needed] is None:
        raise UsageError(f"method={method!r} needs {needed}: give it")
    if useless := [name for name, value in others.items() if value is not None]:
        raise UsageError(
            f"{useless[0]}={others[useless[0]]!r} does nothing with method={method!r}: leave it out"
        )


def _setting(kb: KnowledgeBase, jump: dict[str, Any]) -> Setting:
    identity = kb.manifest.identity
    key = identity["key_step"] if jump["key_step"] is None else jump["key_step"]
    if key is None:
        raise UsageError(
            f"the KB {str(kb.root)!r} was recorded without a key step, for method='corrected' "
            "alone: record it with key_step and value_steps"
        )
    names = ("neighbours", "estimator", "weights", "resume")
    given = {name: jump[name] for name in names if jump[name] is not None}
    setting = Setting(int(key), jump["value_step"], **given)
    setting.check(int(identity["steps"]))
    return setting


def disable(pipe: Any) -> None:
    """Make the pipeline what it was before `enable`; its summary can still be read."""
    detach(pipe)


def summary(pipe: Any) -> Summary:
    """Hits, distances, network calls made and saved, and retrieval time since `enable`."""
    if pipe not in _SUMMARIES:
        raise UsageError("this pipeline was never enabled: call redi.enable(pipe, kb, ...) first")
    return _SUMMARIES[pipe]
