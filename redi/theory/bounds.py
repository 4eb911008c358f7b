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

from redi.theory.certificate import (
    certificate,
    mismatch_sources,
    propagate,
    propagate_growth,
    step_map_certificate,
)
from redi.theory.jump import JumpRecord
from redi.theory.pairs import PairRecord

FORMS = ("lipschitz", "step_map")


def retrieval_bound(weights: Tensor, pair_bounds: Tensor, state_norm: Tensor) -> Tensor:
    """Inequality (4): bounds (Q,) on `|| sum_h w_h y^h_v - y_v ||`.

    `sum_h |w_h| B^h_v + |1 - sum_h w_h| ||y_v||` for weights and pair bounds (Q, H) and norms
    (Q,) of the true state; the last term vanishes for affine weights.
    """
    return (weights.abs() * pair_bounds).sum(1) + (1 - weights.sum(1)).abs() * state_norm


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
    bounds = certificate(pairs) if form == "lipschitz" else step_map_certificate(pairs)
    at_value = bounds[jump.value_step - pairs.updates[0].index].reshape(jump.weights.shape)
    start = retrieval_bound(jump.weights, at_value, jump.state_norm)
    constants = jump.secant if form == "lipschitz" else jump.growth
    sources = jump.history_term + jump.rounding
    return jump.final_alpha * continuation_bound(jump, start, constants, sources, form)


@dataclass(frozen=True)
class PlugIn:
    """Constants at one quantile over calibration queries, in the place of a run's own.

    `constants` (n, 1) per form hold for the updates from the key step on, `after` (N - v, 1) per
    form and value step for the updates after a jump.
    """

    quantile: float
    constants: Mapping[str, Tensor]
    mismatch: Tensor  # (n, 1)
    after: Mapping[tuple[str, int], Tensor]
    history: Mapping[int, Tensor]  # per value step (N - v, 1)
    state_norm: Mapping[int, float]  # per value step
    decoder: float  # distance of pictures over distance of latents

    def pair_bounds(self, pairs: PairRecord, form: str) -> Tensor:
        """Plug-in bounds (n + 1, P); they use of a pair only what is known at the key step."""
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
        at_value = self.pair_bounds(pairs, form)[v - pairs.updates[0].index]
        norm = torch.full_like(jump.state_norm, self.state_norm[v])
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
        after=after,
        history={v: over(jump.history_term[:, queries]) for v, jump in jumps.items()},
        state_norm={v: float(over(jump.state_norm[queries])) for v, jump in jumps.items()},
        decoder=float(over(ratios[ratios.isfinite()])),
    )
