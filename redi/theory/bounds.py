"""From pairs to ReDi: bounds on the jump, on the final latent and on the picture.

Certified bounds use what was measured on the very run that they bound; plug-in bounds use
quantiles over calibration queries and are therefore available before the run is finished
(PROOF.md, sections 6 and 7). Each comes in two forms: `lipschitz` is recursion (2), `step_map` its
sharper relative (PROOF.md, proposition 5).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from redi.theory.certificate import mismatch_sources, propagate, propagate_growth
from redi.theory.displacement import STEPS, displacement, pair_bounds, path
from redi.theory.jump import JumpRecord
from redi.theory.pairs import PairRecord

FORMS = ("lipschitz", "step_map")
_TINY = torch.finfo(torch.float32).tiny


def retrieval_bound(weights: Tensor, errors: Tensor, borrowed: Tensor) -> Tensor:
    """Inequality (4): bounds (Q,) on the error `|| y^_v - y_v ||` of an estimate.

    `sum_h |w_h| B^h + |1 - sum_h w_h| ||T(y)||` for weights and bounds of each neighbour's error
    (Q, H), and norms (Q,) of what the estimator borrows; the last term vanishes for affine weights.
    """
    return (weights.abs() * errors).sum(1) + (1 - weights.sum(1)).abs() * borrowed


def continuation_bound(
    jump: JumpRecord, start: Tensor, constants: Tensor, sources: Tensor, form: str
) -> Tensor:
    """Bounds (Q,) on `||y_N - y^_N||` from bounds (Q,) on the error at `v`.

    Both runs use the query's prompt, so there is no mismatch; the history terms are sources
    (n, Q or 1). `constants` (n, Q or 1) are those of the form: `eta` or the growth of the step
    map. The two runs hold the same predictions from before `v` in the resumed method's own
    update, so those do not differ.
    """
    if not jump.updates:
        return start
    if form == "step_map":
        return propagate_growth(start, constants, sources)[-1]
    same = [torch.zeros_like(start)] * len(jump.updates[0].weights)
    return propagate(jump.updates, start, same, constants, torch.zeros_like(constants), sources)[-1]


def certified_error(pairs: PairRecord, jump: JumpRecord, form: str) -> Tensor:
    """Certified bounds (Q,) on the error `||x_N - x^_N||` of the final latent."""
    bounds = pair_bounds(pairs, jump.estimator, form)
    at_value = bounds[jump.value_step - pairs.updates[0].index].reshape(jump.weights.shape)
    start = retrieval_bound(jump.weights, at_value, jump.borrowed_norm)
    constants = jump.secant if form == "lipschitz" else jump.growth
    sources = jump.history_term + jump.rounding
    return jump.final_alpha * continuation_bound(jump, start, constants, sources, form)


@dataclass(frozen=True)
class PlugIn:
    """Constants at one quantile over calibration queries, in the place of a run's own.

    `constants` (n, 1) per form hold for the updates from the key step on, `after` (N - v, 1) per
    form and value step for the updates after a jump, and `steps` (n, 1) per estimator for what it
    borrows, as shares of the key distance.
    """

    quantile: float
    constants: Mapping[str, Tensor]
    mismatch: Tensor  # (n, 1)
    steps: Mapping[str, Tensor]
    after: Mapping[tuple[str, int], Tensor]
    history: Mapping[int, Tensor]  # per value step (N - v, 1)
    borrowed_norm: Mapping[int, float]  # per value step
    decoder: float  # distance of pictures over distance of latents

    def pair_bounds(self, pairs: PairRecord, form: str, estimator: str = "paper") -> Tensor:
        """Plug-in bounds (n + 1, P) on one neighbour's error under an estimator.

        They use of a pair only what is known at the key step.
        """
        if estimator != "paper" and form == "step_map":
            return path(self.steps[estimator] * pairs.distance[0])
        if estimator != "paper":
            return displacement(pairs, self.constants[form], self.mismatch, estimator)
        if form == "step_map":
            sources = mismatch_sources(pairs.updates, self.mismatch)
            return propagate_growth(pairs.distance[0], self.constants[form], sources)
        return propagate(
            pairs.updates,
            pairs.distance[0],
            pairs.history_gaps,
            self.constants[form],
            self.mismatch,
        )

    def error(self, pairs: PairRecord, jump: JumpRecord, form: str) -> Tensor:
        """Plug-in bounds (Q,) on the error of the final latent, known at the key step."""
        v = jump.value_step
        at_value = self.pair_bounds(pairs, form, jump.estimator)[v - pairs.updates[0].index]
        norm = torch.full_like(jump.borrowed_norm, self.borrowed_norm[v])
        start = retrieval_bound(jump.weights, at_value.reshape(jump.weights.shape), norm)
        bound = continuation_bound(jump, start, self.after[form, v], self.history[v], form)
        return jump.final_alpha * bound

    def picture_error(self, pairs: PairRecord, jump: JumpRecord, form: str) -> Tensor:
        """Plug-in bounds (Q,) on the distance of the decoded pictures: `L_D` times the latents'."""
        return self.decoder * self.error(pairs, jump, form)


def estimate_constants(
    pairs: PairRecord, jumps: Mapping[int, JumpRecord], queries: Tensor, quantile: float
) -> PlugIn:
    """Quantiles over the pairs and jumps of the calibration queries, given as a mask (Q,)."""
    chosen = pairs.take(queries[pairs.query])

    def over(values: Tensor) -> Tensor:
        return torch.quantile(values, quantile, dim=-1, keepdim=True, interpolation="higher")

    ratios = torch.cat(
        [
            jump.picture_error[queries] / (jump.final_alpha * jump.distance[-1, queries])
            for jump in jumps.values()
        ]
    )
    after = {}
    for v, jump in jumps.items():
        after["lipschitz", v] = over(jump.secant[:, queries])
        after["step_map", v] = over(jump.growth[:, queries])
    return PlugIn(
        quantile=quantile,
        constants={"lipschitz": over(chosen.secant), "step_map": over(chosen.growth)},
        mismatch=over(chosen.mismatch),
        steps={
            estimator: over(getattr(chosen, name) / chosen.distance[0].clamp(min=_TINY))
            for estimator, name in STEPS.items()
        },
        after=after,
        history={v: over(jump.history_term[:, queries]) for v, jump in jumps.items()},
        borrowed_norm={v: float(over(jump.borrowed_norm[queries])) for v, jump in jumps.items()},
        decoder=float(over(ratios[ratios.isfinite()])),
    )
