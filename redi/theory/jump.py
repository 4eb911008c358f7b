"""What a jump from the key step to a value step does to the rest of the run (PROOF.md, section 6).

After the jump both runs use the query's prompt, so there is no mismatch; what enters instead is
the history term: a resumed multistep method combines other predictions than the full run does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from redi.theory.fleet import Fleet, norms
from redi.theory.multistep import Update, multistep
from redi.theory.neighbours import combine


@dataclass(frozen=True)
class JumpRecord:
    """Numbers along the Q resumed runs from value step `v` to N; all float64.

    Distances are in units of `y`; `n = N - v`.
    """

    value_step: int
    updates: tuple[Update, ...]
    weights: Tensor  # (Q, H)
    state_norm: Tensor  # (Q,) ||y_v|| of the full run
    distance: Tensor  # (n + 1, Q) ||y_i - y^_i||
    secant: Tensor  # (n, Q) eta_i between the full and the resumed run
    growth: Tensor  # (n, Q) secant constant of the resumed step map
    history_term: Tensor  # (n, Q) R_i
    rounding: Tensor  # (n, Q)
    final_norm: Tensor  # (Q,) ||y_N|| of the full run
    picture_error: Tensor  # (Q,) ||D(x_N) - D(x^_N)||
    final_alpha: float

    @property
    def relative_error(self) -> Tensor:
        """Final error of the jump relative to the full run's final latent (Q,)."""
        return self.distance[-1] / self.final_norm


class JumpRecorder:
    """Resumes every query at its estimate of `y_v` and follows it beside the full run.

    Args:
        queries: full runs at step `v`.
        entries: KB runs at step `v`.
        rows: neighbours (Q, H).
        weights: their weights (Q, H).
        resume: `rewarm` or `retrieved`.
    """

    def __init__(
        self, queries: Fleet, entries: Fleet, rows: Tensor, weights: Tensor, resume: str
    ) -> None:
        sampler, step = queries.sampler, queries.state.step
        self.queries, self.weights, self.value_step = queries, weights, step
        estimate = combine(weights, entries.y, rows)
        latents = (estimate * float(sampler.levels.alpha[step])).to(entries.state.latents.dtype)
        history: tuple[Tensor, ...] = ()
        if resume == "retrieved":
            history = tuple(
                combine(weights, item, rows).to(item.dtype) for item in entries.state.history
            )
        self.carried = [item.double() for item in reversed(history)]
        self.updates = multistep(sampler, step, len(history))
        self.resumed = queries.fork(self.updates, sampler.resume(step, latents, resume, history))
        self.state_norm = norms(queries.y).cpu()
        self.distance = [self._distance()]
        self.secant: list[Tensor] = []
        self.growth: list[Tensor] = []
        self.history_term: list[Tensor] = []
        self.rounding: list[Tensor] = []

    def observe(self) -> None:
        """Follow the update that the full runs have just made."""
        update = self.updates[self.queries.before.step - self.value_step]
        self.resumed.advance()
        scale = update.alpha * self.distance[-1]
        slope = norms(self.queries.noise.double() - self.resumed.noise.double()).cpu()
        self.secant.append(torch.where(scale > 0, slope / scale, 0.0))
        history = self._history_difference(update)
        mapped = norms(self.queries.y - self.resumed.y - history).cpu()
        distance = self.distance[-1]
        self.growth.append(torch.where(distance > 0, mapped / distance, 0.0))
        self.history_term.append(norms(history).cpu())
        self.rounding.append((self.queries.rounding + self.resumed.rounding).cpu())
        self.distance.append(self._distance())

    def record(self, picture_error: Tensor) -> JumpRecord:
        """Everything observed; both runs have to be at the end."""
        empty = torch.zeros(0, len(self.queries), dtype=torch.float64)
        secant, growth, history, rounding = (
            torch.stack(series) if series else empty
            for series in (self.secant, self.growth, self.history_term, self.rounding)
        )
        return JumpRecord(
            self.value_step,
            self.updates,
            self.weights,
            self.state_norm,
            torch.stack(self.distance),
            secant,
            growth,
            history,
            rounding,
            norms(self.queries.y).cpu(),
            picture_error,
            float(self.queries.sampler.levels.alpha[-1]),
        )

    def _distance(self) -> Tensor:
        return norms(self.queries.y - self.resumed.y).cpu()

    def _history_difference(self, update: Update) -> Tensor:
        """The full update minus the resumed one at the full run's state; its norm is `R_i`."""
        since = update.index - self.value_step + 1
        true = list(self.queries.predictions)
        held = [*true[:since], *self.carried]
        full = self.queries.updates[update.index]
        start = torch.zeros_like(self.queries.y)
        return full.apply(start, true) - update.apply(start, held)


def picture_errors(decode: Callable[[Tensor], Tensor], full: Fleet, resumed: Fleet) -> Tensor:
    """Euclidean distance (Q,) of the decoded pictures, `batch_size` pictures at a time."""
    errors = []
    for rows, _ in full.batches():
        wanted, got = (decode(fleet.state.latents[rows]).double() for fleet in (full, resumed))
        errors.append(norms(wanted - got).cpu())
    return torch.cat(errors)
