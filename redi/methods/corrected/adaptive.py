"""How many calls a query gets: a regression predicts every budget's error after the first call.

The first call is made at pure noise whatever the budget, so it is known before the budget has to
be chosen. Kernel ridge regression from its features to the logarithm of each budget's error, fitted
to the left-out errors of the knowledge base's own trajectories, scores the budgets; the threshold
comes from the same split-conformal rule as adaptive skip (redi/theory/PROOF.md, section 8),
with left-out scores in the place of a separate calibration set.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from redi.lazy import Tensor, torch
from redi.methods.conformal import breaking_points, calibrate, choose
from redi.methods.corrected.groups import all_different, first_rows
from redi.methods.corrected.kernel import Choice, KernelRidge, fit_kernel

_CHOICES = [Choice("gaussian", w, r) for w in (0.5, 1.0, 2.0) for r in (1e-2, 1e-1, 1.0)]


@dataclass(frozen=True)
class BudgetPolicy:
    """Calls for each query, so that at most a share `risk` exceeds `tolerance`.

    `budgets` fall; a query whose largest budget already looks too bad gets full sampling.
    """

    budgets: tuple[int, ...]
    regression: KernelRidge  # features of the first call to log errors (B, len(budgets))
    threshold: float
    tolerance: float
    risk: float
    #: the fewest calls that keep the promise when every query gets as many; None: none does
    fixed: int | None

    def to(self, device: torch.device) -> BudgetPolicy:
        """The same policy on another device."""
        return replace(self, regression=self.regression.to(device))

    def scores(self, features: Tensor) -> Tensor:
        """Predicted relative errors (B, len(budgets)) from features (B, F)."""
        return self.regression(features).double().exp()

    def calls(self, features: Tensor) -> list[int | None]:
        """Budget of each query; None stands for full sampling."""
        taken = choose(self.scores(features), self.threshold).tolist()
        return [self.budgets[count - 1] if count else None for count in taken]


def fit_policy(
    features: Tensor,
    errors: Tensor,
    budgets: Sequence[int],
    tolerance: float,
    risk: float,
    groups: Tensor | None = None,
) -> BudgetPolicy:
    """Fit and calibrate on left-out trajectories.

    Args:
        features: of the first call (K, F).
        errors: relative errors (K, len(budgets)) of corrections that left each trajectory out.
        budgets: numbers of calls, falling, so that the safest comes first.
        groups: of trajectories that repeat one another (K,), which are left out together and count
            once; None: no trajectory repeats another.
    """
    groups = all_different(len(features)) if groups is None else groups
    targets = errors.double().clamp_min(1e-12).log()
    regression, left_out, _ = fit_kernel(features, targets, _CHOICES, groups)
    once = first_rows(groups)
    scores, known = left_out.exp()[once], errors[once]
    points = breaking_points(scores, known, tolerance)
    exceeded = (known > tolerance).sum(0)
    allowed = risk * (len(known) + 1)
    kept = [n for n, count in zip(budgets, exceeded.tolist(), strict=True) if count + 1 <= allowed]
    return BudgetPolicy(
        tuple(budgets),
        regression,
        calibrate(points, risk),
        tolerance,
        risk,
        min(kept, default=None),
    )
