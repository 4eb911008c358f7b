"""What a jump from the key step to a value step does to the rest of the run (PROOF.md, section 6).

After the jump both runs use the query's prompt, so there is no mismatch; what enters instead is
the history term: a resumed multistep method combines other predictions than the full run does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from redi.retrieval import ESTIMATORS, WEIGHTS, Jump
from redi.theory.fleet import Fleet, norms
from redi.theory.losses import Loss
from redi.theory.multistep import Update, multistep


class Keys:
    """What queries and entries have at the key step, and the neighbours that were found there.

    Weights and estimates are those of runs: `redi.retrieval.WEIGHTS` and `ESTIMATORS`.
    """

    def __init__(self, queries: Fleet, entries: Fleet, rows: Tensor, weights: str) -> None:
        self.queries, self.rows = queries, rows
        self.rho = float(queries.sampler.levels.rho[queries.state.step])
        self._query, self._query_noise = queries.y, queries.last
        self._entries, self._entry_noise = entries.y, entries.last
        self.weights = torch.cat(  # (Q, H)
            [
                WEIGHTS[weights](mine.flatten(1), keys.flatten(2))
                for mine, keys in self._batches(lambda part: (self._query[part], self._keys(part)))
            ]
        )

    @property
    def residual(self) -> Tensor:
        """`|| y_k - sum_h w_h y^h_k ||` (Q,)."""
        return norms(self._query - self.estimates("paper", self._entries, self.rho)).cpu()

    def estimates(self, estimator: str, values: Tensor, rho: float) -> Tensor:
        """Estimates (Q, C, H, W) of the queries' states from those of all entries at `rho`."""
        return self._estimates(lambda part: self._jump(part, values, rho), estimator)

    def borrowed(self, estimator: str, values: Tensor, rho: float) -> Tensor:
        """What the estimator would borrow from the queries' own trajectories (Q, C, H, W).

        It is linear in the query and in its neighbours: the query's part is set to zero.
        """
        return self._estimates(lambda part: self._own(part, values, rho), estimator)

    def combine(self, items: Tensor) -> Tensor:
        """`sum_h w_h item_h` (Q, ...) of the entries' items (M, ...), float64."""
        return self.estimates("paper", items, self.rho)

    def _estimates(self, jump_of: Callable[[slice], Jump], estimator: str) -> Tensor:
        return torch.cat([ESTIMATORS[estimator](jump) for jump in self._batches(jump_of)])

    def _batches(self, make: Callable[[slice], Any]) -> Iterator[Any]:
        return (make(part) for part, _ in self.queries.batches())

    def _keys(self, part: slice) -> Tensor:
        return self._entries[self.rows[part]]

    def _jump(self, part: slice, values: Tensor, rho: float) -> Jump:
        rows = self.rows[part]
        return Jump(
            query_key=self._query[part],
            query_prediction=self._query_noise[part].double(),
            keys=self._keys(part),
            predictions=self._entry_noise[rows].double(),
            values=values[rows].double(),
            weights=self.weights[part].to(values.device),
            stride=rho - self.rho,
        )

    def _own(self, part: slice, values: Tensor, rho: float) -> Jump:
        query, noise = self._query[part], self._query_noise[part].double()
        return Jump(
            query_key=torch.zeros_like(query),
            query_prediction=torch.zeros_like(noise),
            keys=query[:, None],
            predictions=noise[:, None],
            values=values[part, None],
            weights=torch.ones(len(query), 1, dtype=query.dtype, device=query.device),
            stride=rho - self.rho,
        )


@dataclass(frozen=True)
class JumpRecord:
    """Numbers along the Q resumed runs from value step `v` to N; all float64.

    Distances are in units of `y`; `n = N - v`.
    """

    estimator: str
    value_step: int
    updates: tuple[Update, ...]
    weights: Tensor  # (Q, H)
    borrowed_norm: Tensor  # (Q,) norm of what the estimator borrows, on the full run itself
    distance: Tensor  # (n + 1, Q) ||y_i - y^_i||
    secant: Tensor  # (n, Q) eta_i between the full and the resumed run
    growth: Tensor  # (n, Q) secant constant of the resumed step map
    history_term: Tensor  # (n, Q) R_i
    rounding: Tensor  # (n, Q)
    final_norm: Tensor  # (Q,) ||y_N|| of the full run
    picture_error: Tensor  # (Q,) ||D(x_N) - D(x^_N)||
    losses: Mapping[str, Tensor]  # (Q,) of the picture, by metric
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
        keys: what was found at the key step.
        estimator: one of `redi.retrieval.ESTIMATORS`.
        resume: `rewarm` or `retrieved`.
    """

    def __init__(
        self, queries: Fleet, entries: Fleet, keys: Keys, estimator: str, resume: str
    ) -> None:
        sampler, step = queries.sampler, queries.state.step
        self.queries, self.keys, self.value_step = queries, keys, step
        self.estimator, rho = estimator, float(sampler.levels.rho[step])
        estimate = keys.estimates(estimator, entries.y, rho)
        latents = (estimate * float(sampler.levels.alpha[step])).to(entries.state.latents.dtype)
        history: tuple[Tensor, ...] = ()
        if resume == "retrieved":
            history = tuple(keys.combine(item).to(item.dtype) for item in entries.state.history)
        self.carried = [item.double() for item in reversed(history)]
        self.updates = multistep(sampler, step, len(history))
        self.resumed = queries.fork(self.updates, sampler.resume(step, latents, resume, history))
        self.borrowed_norm = norms(keys.borrowed(estimator, queries.y, rho)).cpu()
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

    def record(self, picture_error: Tensor, losses: Mapping[str, Tensor]) -> JumpRecord:
        """Everything observed; both runs have to be at the end."""
        empty = torch.zeros(0, len(self.queries), dtype=torch.float64)
        secant, growth, history, rounding = (
            torch.stack(series) if series else empty
            for series in (self.secant, self.growth, self.history_term, self.rounding)
        )
        return JumpRecord(
            self.estimator,
            self.value_step,
            self.updates,
            self.keys.weights,
            self.borrowed_norm,
            torch.stack(self.distance),
            secant,
            growth,
            history,
            rounding,
            norms(self.queries.y).cpu(),
            picture_error,
            losses,
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


def picture_errors(
    decode: Callable[[Tensor], Tensor],
    full: Fleet,
    resumed: Fleet,
    losses: Mapping[str, Loss],
    prompts: Sequence[str],
) -> tuple[Tensor, dict[str, Tensor]]:
    """Euclidean distance (Q,) of the decoded pictures, and their losses; by batches."""
    errors: list[Tensor] = []
    lost: dict[str, list[Tensor]] = {name: [] for name in losses}
    for rows, _ in full.batches():
        wanted, got = (decode(fleet.state.latents[rows]) for fleet in (full, resumed))
        errors.append(norms(wanted.double() - got.double()).cpu())
        for name, loss in losses.items():
            lost[name].append(loss(wanted, got, prompts[rows]).cpu())
    return torch.cat(errors), {name: torch.cat(parts) for name, parts in lost.items()}
