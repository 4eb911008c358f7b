"""Which placement of few levels corrects best, by the error of left-out trajectories."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from redi.methods.corrected.corrector import Correction
from redi.methods.corrected.plan import Plan


def best_plan(plans: Sequence[Plan], fit: Callable[[Plan], Correction]) -> Plan:
    """The plan whose corrections leave the least mean error on trajectories left out of them.

    `fit` fits a plan on visited states. Its predicted error is that of whole corrected runs, so it
    knows that later steps repair earlier errors; the sum of left-out errors of single steps does
    not, and would spend the calls at the start. Nothing is fitted where there is no choice.
    """
    distinct = {plan.steps: plan for plan in plans}
    if len(distinct) == 1:
        return plans[0]

    def error(plan: Plan) -> float:
        predicted = fit(plan).predicted_error
        assert predicted is not None  # Recipe refuses a choice of levels on exact states
        return float(predicted.mean())

    return min(distinct.values(), key=error)
