"""What a (query, neighbour) pair of trajectories does between the key step and the value step.

Only numbers are kept, one per pair and step; the trajectories themselves are never stored, so the
memory is that of the two fleets (PROOF.md, section 2).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor

from redi.samplers import Predict
from redi.theory.fleet import Fleet, norms
from redi.theory.multistep import Update

#: The fields of a record that hold one row per update (`distance` has one more).
SERIES = (
    "distance",
    "noise_gap",
    "secant",
    "growth",
    "mismatch",
    "unreproduced",
    "residual",
    "move",
    "rounding",
    "drift",
    "bend",
)

#: Relative difference of two evaluations of one network at one input.
_REPEAT = 8 * torch.finfo(torch.float32).eps


@dataclass(frozen=True)
class PairRecord:
    """Numbers along P pairs for the n updates from the key step on; all float64."""

    updates: tuple[Update, ...]
    query: Tensor  # (P,) row of the query
    entry: Tensor  # (P,) row of the KB entry
    distance: Tensor  # (n + 1, P) Delta_i
    noise_gap: Tensor  # (n, P) ||e_i - e'_i||
    secant: Tensor  # (n, P) eta_i
    growth: Tensor  # (n, P) secant constant of the step map, PROOF.md (5)
    mismatch: Tensor  # (n, P) delta_i
    unreproduced: Tensor  # (n, P) ||e_i - e_i evaluated again|| beyond rounding
    residual: Tensor  # (n, P) how far the update misses the difference of states
    move: Tensor  # (n, P) size of the terms of the update
    rounding: Tensor  # (n, P) rounding that the sampler's arithmetic may add
    drift: Tensor  # (n, P) ||D_{i+1} - D_i||, D = y - y'
    bend: Tensor  # (n, P) the same of D - rho (e_{k-1} - e'_{k-1})
    key_gap: Tensor  # (P,) ||e_{k-1} - e'_{k-1}||, what a jump knows of the predictions
    rho: tuple[float, ...]  # levels of the n + 1 states
    #: gaps (P,) of the predictions made before the key step, newest first
    history_gaps: tuple[Tensor, ...]
    #: residuals (P,) of updates with one coefficient changed, and the step that was changed
    perturbed: Mapping[str, tuple[int, Tensor]] = field(default_factory=dict)

    @property
    def alpha(self) -> Tensor:
        """`alpha_i` (n, 1)."""
        return torch.tensor([[u.alpha] for u in self.updates], dtype=torch.float64)

    def take(self, rows: Tensor) -> PairRecord:
        """The record of some pairs, chosen by a mask (P,)."""
        return replace(
            self,
            query=self.query[rows],
            entry=self.entry[rows],
            key_gap=self.key_gap[rows],
            history_gaps=tuple(gap[rows] for gap in self.history_gaps),
            perturbed={name: (step, item[rows]) for name, (step, item) in self.perturbed.items()},
            **{name: getattr(self, name)[:, rows] for name in SERIES},
        )


class PairRecorder:
    """Records pairs while a fleet of queries and a fleet of KB entries advance side by side.

    Args:
        queries: fleet at the key step.
        entries: fleet at the key step.
        neighbours: KB rows (Q, C) that each query is paired with.
        perturbed: named updates of one step to be checked beside the true ones.
        prompts_from: predictors, aligned with the queries' batches, that take the place of the
            query's prompt; the control that must break the certificate. None is the query's own.
    """

    def __init__(
        self,
        queries: Fleet,
        entries: Fleet,
        neighbours: Tensor,
        perturbed: Mapping[str, Update] | None = None,
        prompts_from: Sequence[Predict] | None = None,
    ) -> None:
        self.queries, self.entries, self.neighbours = queries, entries, neighbours
        self.perturbed = dict(perturbed or {})
        self.predictors = queries.predictors if prompts_from is None else prompts_from
        self.updates: list[Update] = []
        self.series: dict[str, list[Tensor]] = {name: [] for name in SERIES}
        self.series["distance"].append(self._columns(self._distances))
        self.history = tuple(
            self._columns(partial(self._gap, j)) for j in range(len(queries.predictions))
        )
        self.checked: dict[str, tuple[int, Tensor]] = {}
        self.key_noise = queries.last, entries.last
        self.key_gap = self._columns(lambda rows, idx: norms(self._key_gap(rows, idx)))
        self.rho = [float(queries.sampler.levels.rho[queries.state.step])]

    def observe(self) -> None:
        """Record the update that both fleets have just made."""
        update = self.queries.updates[self.queries.before.step]
        own = self._evaluate(self.queries.before.latents, update.index)
        columns: list[dict[str, Tensor]] = []
        for column in self.neighbours.T:
            crossed = self._evaluate(self.entries.before.latents[column], update.index)
            batches = [
                self._observe(update, rows, column[rows], own[rows], crossed[rows])
                for rows, _ in self.queries.batches()
            ]
            columns.append({name: torch.cat([b[name] for b in batches]) for name in batches[0]})
        joined = {name: torch.stack([c[name] for c in columns], 1).flatten() for name in columns[0]}
        for name in SERIES:
            self.series[name].append(joined[name])
        for name, changed in self.perturbed.items():
            if changed.index == update.index:
                self.checked[name] = (len(self.updates), joined[name])
        self.updates.append(update)
        self.rho.append(float(self.queries.sampler.levels.rho[update.index + 1]))

    def record(self) -> PairRecord:
        """Everything observed so far; pairs in the order of the rows of `neighbours`."""
        count, width = self.neighbours.shape
        return PairRecord(
            updates=tuple(self.updates),
            query=torch.arange(count).repeat_interleave(width),
            entry=self.neighbours.flatten(),
            history_gaps=self.history,
            key_gap=self.key_gap,
            rho=tuple(self.rho),
            perturbed=self.checked,
            **{name: torch.stack(series) for name, series in self.series.items()},
        )

    def _evaluate(self, latents: Tensor, step: int) -> Tensor:
        """Noise predictions of the queries' prompts at any latents (Q, C, H, W)."""
        sampler = self.queries.sampler
        (timestep,) = sampler.call_timesteps[step]
        parts = [
            sampler.noise_prediction(predict(latents[rows], timestep), latents[rows], step)
            for (rows, _), predict in zip(self.queries.batches(), self.predictors, strict=True)
        ]
        return torch.cat(parts)

    def _observe(
        self, update: Update, rows: slice, idx: Tensor, own: Tensor, crossed: Tensor
    ) -> dict[str, Tensor]:
        queries, entries = self.queries, self.entries
        e, other = queries.noise[rows].double(), entries.noise[idx].double()  # (B, C, H, W)
        own, crossed = own.double(), crossed.double()
        before = queries.y_before[rows] - entries.y_before[idx]
        after = queries.y[rows] - entries.y[idx]
        reach = min(len(update.weights), len(queries.predictions))
        gaps = [queries.predictions[j][rows] - entries.predictions[j][idx] for j in range(reach)]
        distance = norms(before)
        scale = update.alpha * distance
        slope, mismatch = norms(own - crossed), crossed - other
        mapped = norms(after - update.noise_gain * mismatch)
        weighted = sum(abs(b) * norms(g) for b, g in zip(update.weights, gaps, strict=True))
        result = {
            "distance": norms(after),
            "noise_gap": norms(e - other),
            "secant": torch.where(scale > 0, slope / scale, 0.0),
            "growth": torch.where(distance > 0, mapped / distance, 0.0),
            "mismatch": norms(mismatch),
            "unreproduced": (norms(own - e) - _REPEAT * norms(e)).clamp(min=0),
            "residual": norms(after - update.apply(before, gaps)),
            "move": (1 - update.carry) * distance + abs(update.gain) * weighted,
            "rounding": queries.rounding[rows] + entries.rounding[idx],
            "drift": norms(after - before),
            "bend": norms(after - before - self._stride(update) * self._key_gap(rows, idx)),
        }
        for name, changed in self.perturbed.items():
            if changed.index == update.index:
                result[name] = norms(after - changed.apply(before, gaps))
        return {name: value.cpu() for name, value in result.items()}

    def _stride(self, update: Update) -> float:
        return float(self.queries.sampler.levels.rho[update.index + 1]) - update.rho

    def _key_gap(self, rows: slice, idx: Tensor) -> Tensor:
        """`e_{k-1} - e'_{k-1}` (B, C, H, W)."""
        mine, other = self.key_noise
        return mine[rows].double() - other[idx].double()

    def _columns(self, measure: Callable[[slice, Tensor], Tensor]) -> Tensor:
        columns = [
            torch.cat([measure(rows, column[rows]) for rows, _ in self.queries.batches()])
            for column in self.neighbours.T
        ]
        return torch.stack(columns, 1).flatten().cpu()

    def _distances(self, rows: slice, idx: Tensor) -> Tensor:
        return norms(self.queries.y[rows] - self.entries.y[idx])

    def _gap(self, j: int, rows: slice, idx: Tensor) -> Tensor:
        return norms(self.queries.predictions[j][rows] - self.entries.predictions[j][idx])
