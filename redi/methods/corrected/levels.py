"""Which placement of few levels corrects best, by the error of left-out trajectories."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from redi.methods.corrected.corrector import Correction
from redi.methods.few.plan import Plan
from redi.samplers import Calls


def best_plan(plans: Sequence[Plan], fit: Callable[[Plan], Calls[Correction]]) -> Calls[Plan]:
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
        predicted = (yield from fit(plan)).predicted_error
        assert predicted is not None  # Recipe refuses a choice of levels on exact states
        errors[plan.steps] = float(predicted.mean())
    return distinct[min(errors, key=lambda steps: errors[steps])]
