"""`redi.fit`: a method, the best one for a number of calls, or the fewest calls for an error."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, overload

from redi.errors import UsageError
from redi.knowledge_base import KnowledgeBase
from redi.knowledge_base.hub import opened as open_kb
from redi.methods import Fitted, Method, make_method
from redi.methods.best import Best
from redi.methods.few.placement import needed_steps
from redi.pipeline.fitting import Fitting, reference_setup


@overload
def fit(
    pipe: Any,
    kb: str | Path | KnowledgeBase,
    method: str | Fitted | None = None,
    *,
    tolerance: None = None,
    **settings: Any,
) -> Path: ...


@overload
def fit(pipe: Any, kb: str | Path | KnowledgeBase, *, tolerance: float, **settings: Any) -> int: ...


def fit(
    pipe: Any,
    kb: str | Path | KnowledgeBase,
    method: str | Fitted | None = None,
    *,
    num_inference_steps: int | None = None,
    calls: int | Sequence[int] | None = None,
    tolerance: float | None = None,
    risk: float = 0.1,
    methods: Sequence[str] = (),
    budget: int | None = None,
    batch_size: int = 1,
    progress: bool = True,
    **call: Any,
) -> Path | int:
    """Fit a method to the trajectories of a knowledge base, on the pipeline itself.

    Costs network calls (for corrected sampling one per trajectory and step, and a few more to
    choose where the steps lie). The fit is kept beside the KB, where `enable` finds it::

        solver = redi.OLSS(5, levels="even")  # or redi.DODE(5, base="dpm_solver_pp"), ...
        kb = redi.record(pipe, prompts, "kb", methods=[solver], noise="per_prompt", **call)
        redi.fit(pipe, kb, solver, **call)
        with redi.enable(pipe, kb, solver):
            image = pipe("a red fox", num_inference_steps=5, guidance_scale=7.5).images[0]

    `fit(pipe, kb, calls=5)` fits all that it may, compares them by the error of whole runs on
    trajectories that were left out, shows the table and keeps the winner:
    `enable(pipe, kb, "best", num_inference_steps=5)` uses it. `fit(pipe, kb, tolerance=0.05)` does
    so with more and more calls and returns the fewest that keep the error.

    Args:
        kb: a KB recorded with this number in `budgets`, or with the method in `methods`.
        method: a method that is fitted, by name or as an object; None: "best" where `calls` or
            `tolerance` is given, else "corrected".
        num_inference_steps: of the calls to come, where the method is given by name.
        calls: the same of "best"; with a tolerance, the numbers to try (None: all from 2 to half of
            the KB's steps that the KB has states for).
        tolerance: relative error of the final latents to the full run.
        risk: share of fresh runs that may exceed it.
        methods: what "best" may choose from, "plain" and names of `redi.METHODS`; empty: all.
        budget: network calls, one for each trajectory, that "best" may cost; None: any number.
        batch_size: prompts per pipeline call.
        progress: whether to show a bar, and the table of "best".
        call: the arguments that the KB was recorded with, such as guidance_scale.

    Raises:
        UsageError: the KB does not fit the pipeline or lacks the steps; it names what differs. No
            number of calls keeps the tolerance.
    """
    opened = open_kb(kb)
    run = Fitting(pipe, opened, batch_size, progress, call)
    chosen_for = calls is not None or tolerance is not None
    if chosen_for and num_inference_steps == opened.manifest.identity["steps"]:
        num_inference_steps = None  # of the recording, as all arguments of `call`
    if tolerance is not None:
        if method is not None or num_inference_steps is not None:
            raise UsageError("tolerance chooses method and number of calls: give neither")
        return _fewest(run, calls, tolerance, risk, tuple(methods), budget)
    if calls is not None and not isinstance(calls, int):
        raise UsageError(f"calls={calls!r} is several numbers: give one, or a tolerance")
    if method is None and calls is not None and num_inference_steps is None:
        return run.fit(Best(calls, tuple(methods), budget=budget))
    if calls is not None or methods or budget is not None:
        raise UsageError("calls, methods and budget are of method='best': give calls alone")
    if isinstance(method, Method):
        chosen: Method = method
    else:
        chosen = _named(method or "corrected", num_inference_steps)
    if not isinstance(chosen, Fitted):
        raise UsageError(f"method={chosen.name!r} has nothing to fit: enable it as it is")
    return run.fit(chosen)


def _fewest(
    run: Fitting,
    calls: int | Sequence[int] | None,
    tolerance: float,
    risk: float,
    methods: tuple[str, ...],
    budget: int | None,
) -> int:
    """The fewest calls whose best sampler keeps a tolerance."""
    if not tolerance > 0 or not 0 < risk < 1:
        raise UsageError(
            f"tolerance={tolerance}, risk={risk}: give a positive error and a share above 0 and "
            "below 1"
        )
    setup = reference_setup(run.pipe, run.kb)
    steps, stored = setup.sampler.num_steps, set(run.kb.stored_steps)
    if calls is None:
        tried = [
            n
            for n in range(2, steps // 2 + 1)
            if set(needed_steps(setup.sampler, n, "even")) <= stored
        ]
    else:
        tried = sorted({calls} if isinstance(calls, int) else set(calls))
    if not tried:
        raise UsageError(
            f"the KB {str(run.kb.root)!r} has states for no number of calls: record it with "
            "budgets=[...], or give calls"
        )
    seen = []
    for number in tried:
        best = Best(number, methods, budget=budget)
        run.fit(best)
        bound = best.bind(setup)
        if bound.keeps(tolerance, risk):
            return number
        seen.append(f"{number} calls {bound.forecast.error:.3f} ({bound.label})")
    raise UsageError(
        f"tolerance={tolerance} is kept with risk={risk} by no number of calls that the KB has "
        f"states for; mean errors are {', '.join(seen)}: allow more, or record more budgets"
    )


def _named(name: str, steps: int | None) -> Method:
    if steps is None:
        raise UsageError(f"method={name!r} needs num_inference_steps: give it")
    return make_method(name, {"calls": steps})
