"""redi on a user's own diffusers pipeline: enable, disable, summary, record."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any
from weakref import WeakKeyDictionary

import torch

from redi.data.noise import NoisePolicy
from redi.errors import UsageError
from redi.inference import Setting
from redi.knowledge_base import KnowledgeBase
from redi.pipeline.identity import model_identity, require_same
from redi.pipeline.recording import record
from redi.pipeline.retrieve import METHODS
from redi.pipeline.session import attach, detach
from redi.pipeline.tally import Summary

__all__ = ["Enabled", "Summary", "disable", "enable", "generators", "record", "summary"]

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
    key_step: int | None = None,
    value_step: int,
    method: str = "redi",
    neighbours: int = 1,
    estimator: str = "paper",
    weights: str | None = None,
    resume: str = "rewarm",
    max_distance: float | None = None,
) -> Enabled:
    """Let an unmodified diffusers pipeline jump along the trajectories of a knowledge base.

    Until `disable(pipe)` or the end of the `with` block each call runs to the key step, goes on
    from the value step of the nearest trajectories and leaves out the network calls between.

    Args:
        kb: folder of a KB made by `record` or `redi kb build`, or an opened one.
        key_step: None takes the KB's.
        method: only "redi".
        neighbours, estimator, weights, resume: as `retrieval.*` in the configuration.
        max_distance: a batch in which a nearest key is farther than this runs in full.

    Raises:
        UsageError: the KB does not fit the pipeline (the differing fields are named), the sampler
            is stochastic, or the steps are not stored. What only a call can tell, such as its
            guidance scale, is refused in that call before the network is run.
    """
    if method not in METHODS:
        raise UsageError(f"method={method!r} is unknown; use one of {', '.join(METHODS)}")
    opened = kb if isinstance(kb, KnowledgeBase) else KnowledgeBase(Path(kb))
    identity = opened.manifest.identity
    key = int(identity["key_step"]) if key_step is None else key_step
    setting = Setting(key, value_step, neighbours, estimator, weights, resume)
    setting.check(int(identity["steps"]))
    model = model_identity(pipe)
    require_same(opened, model)
    found = Summary()
    plan = METHODS[method](opened, setting, max_distance, found)
    attach(pipe, plan, plan.describe)
    _SUMMARIES[pipe] = found
    return Enabled(pipe)


def disable(pipe: Any) -> None:
    """Make the pipeline what it was before `enable`; its summary can still be read."""
    detach(pipe)


def summary(pipe: Any) -> Summary:
    """Hits, distances, network calls made and saved, and retrieval time since `enable`."""
    if pipe not in _SUMMARIES:
        raise UsageError("this pipeline was never enabled: call redi.enable(pipe, kb, ...) first")
    return _SUMMARIES[pipe]


def generators(kb: str | Path | KnowledgeBase, count: int = 1) -> list[torch.Generator]:
    """Generators of the KB's own initial noise, one per sample; give them to the pipeline.

    A trajectory helps a query that starts from the same noise.
    """
    opened = kb if isinstance(kb, KnowledgeBase) else KnowledgeBase(Path(kb))
    identity = opened.manifest.identity
    policy = NoisePolicy(seed=int(identity["noise_seed"]))
    return [policy.generator(0) for _ in range(count)]
