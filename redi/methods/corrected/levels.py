"""Which placement of few levels corrects best, by the error of left-out trajectories."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from redi.methods.corrected.corrector import Correction
from redi.methods.few.plan import Plan
from redi.samplers import Calls

#: fits the corrections of a plan
Fit = Callable[[Plan], Calls[Correction]]


def best_plan(plans: Sequence[Plan], fit: Fit) -> Calls[Plan]:
    """The plan whose corrections leave the least mean error on trajectories left out of them.

    `fit` fits a plan on visited states. Its predicted error is that of whole corrected runs, so it
    knows that later steps repair earlier errors; the sum of left-out errors of single steps does
    not, and would spend the calls at the start. Nothing is fitted where there is no choice.
    """
    distinct = {plan.steps: plan for plan in plans}
    if len(distinct) == 1:
        return plans[0]

    errors = {}
    for plan in distinct.values():
        errors[plan.steps] = yield from _error(plan, fit)
    return distinct[min(errors, key=lambda steps: errors[steps])]


def refined(plan: Plan, fit: Fit, size: int) -> Calls[Plan]:
    """The plan after coordinate descent on that error.

    Every level between the ends is moved by `size` reference steps as long as the error falls, then
    by half as many, down to one.
    """
    best, least = plan, (yield from _error(plan, fit))
    while size:
        for level in range(1, plan.strides):
            for move in (-size, size):
                while True:
                    steps = list(best.steps)
                    steps[level] += move
                    if not steps[level - 1] < steps[level] < steps[level + 1]:
                        break
                    tried = replace(best, steps=tuple(steps))
                    error = yield from _error(tried, fit)
                    if error >= least:
                        break
                    best, least = tried, error
        size //= 2
    return best


def _error(plan: Plan, fit: Fit) -> Calls[float]:
    predicted = (yield from fit(plan)).predicted_error
    assert predicted is not None  # Recipe refuses a choice of levels on exact states
    return float(predicted.mean())
