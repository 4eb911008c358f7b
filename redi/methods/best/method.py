"""Choosing among few-step samplers by what they err on trajectories that they never saw."""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from redi.errors import UsageError
from redi.lazy import Tensor, torch
from redi.methods.base import Fitted, Method, Query, Say, Setup, register
from redi.methods.best.candidates import (
    BASES,
    PLACEMENTS,
    PLAIN,
    SEARCHED,
    check_names,
    fitted,
    known,
    named,
)
from redi.methods.best.left_out import Allowance, folds_of, left_out_errors, run_rows
from redi.methods.corrected.groups import first_rows, groups_of
from redi.methods.few.method import fit_columns
from redi.methods.few.placement import needed_steps, plan
from redi.methods.few.store import FIX, Cost, cost_from, damage, fit_path, fitted_to
from redi.methods.placed import Placed
from redi.metrics.intervals import bootstrap_mean
from redi.ranges import check_ranges, within
from redi.samplers import Calls
from redi.sealed import load_sealed, save_sealed

_WHAT = "the choice of the best sampler"


@dataclass(frozen=True)
class Row:
    """One candidate: its mean left-out error and 95% interval over prompts, or why it has none."""

    label: str
    error: float | None = None
    low: float | None = None
    high: float | None = None
    #: network calls that its comparison asked for
    calls: int = 0
    why: str = ""


@register
@dataclass
class Best(Fitted):
    """Whichever of plain and fitted samplers errs least, with an honest forecast of its error.

    Every candidate is fitted to a part of the KB's trajectories and run, whole, on the rest, so
    that each trajectory is left out once, with all that repeat its prompt and noise. Errors are
    relative to the KB's own full runs. Plain samplers try several placements of their levels first;
    fitted ones take the best of them. The winner is fitted to all trajectories. Its forecast is for
    fits to fewer, and the least of many: the first errs up, the second a little down.
    """

    name = "best"
    title = "the best of all by left-out error"
    own_levels = True
    #: network calls
    calls: int = within(5, 1)
    #: what it may choose from: "plain" and names of fitted methods; none: all
    methods: tuple[str, ...] = ()
    #: parts that the trajectories are left out in
    folds: int = within(2, 2)
    #: trajectories that placements of levels are tried on
    trials: int = within(32, 1)
    #: network calls, one for each trajectory, that everything may cost; null: any number
    budget: int | None = within(None, 1)

    def __post_init__(self) -> None:
        check_ranges(self)
        self.methods = tuple(self.methods)
        check_names(self.methods)

    def path(self, setup: Setup) -> Path:
        kb = setup.needs_kb(self.name)
        return fit_path(kb.root, kb.content_hash, self.name, self.settings())

    def _scratch(self, setup: Setup) -> Path:
        """Folder of the fits that leave trajectories out; it is taken away."""
        return self.path(setup).with_suffix(".parts")

    def needed_steps(self, setup: Setup) -> list[int]:
        """Of a KB that is to be made, all that it would like; of one that is there, the end."""
        end = setup.sampler.num_steps
        wanted = {
            step
            for levels in (*PLACEMENTS, SEARCHED)
            for step in needed_steps(setup.sampler, self.calls, levels)
        }
        if setup.kb is None:
            return sorted(wanted | {end})
        self._folds(setup)
        trials = min(self.trials, len(setup.kb))
        least = trials * len(BASES) * self.calls
        if self.budget is not None and self.budget < least:
            raise UsageError(
                f"budget={self.budget} is too small to try plain samplers with {self.calls} calls "
                f"on {trials} trajectories: give at least {least}, or fewer trials"
            )
        return [end]

    def _folds(self, setup: Setup) -> Tensor:
        kb = setup.needs_kb(self.name)
        return folds_of(kb.prompts, kb.noise_ids.tolist(), kb.partitions, self.folds)

    def fitting(self, setup: Setup, start: Tensor, say: Say) -> Calls[None]:
        cost = Cost()
        try:
            label, levels, rows, errors = yield from cost.of(self._choose(setup, start, say))
        finally:
            shutil.rmtree(self._scratch(setup), ignore_errors=True)
        content = {
            "label": label,
            "levels": levels,
            "rows": [asdict(row) for row in rows],
            "cost": asdict(cost),
        }
        path, of = self.path(setup), fitted_to(setup.needs_kb(self.name))
        save_sealed(path, _WHAT, {**of, "name": path.stem}, {"errors": errors}, content)

    def _choose(
        self, setup: Setup, start: Tensor, say: Say
    ) -> Calls[tuple[str, str, list[Row], Tensor]]:
        folds, allowed = self._folds(setup), Allowance.of_budget(self.budget)
        say(f"Placing {self.calls} calls on {min(self.trials, len(start))} trajectories")
        placed, levels = yield from self._place(setup, start, allowed, say)
        names = self.methods or tuple(known())
        candidates: dict[str, Method] = {}
        for name in names:
            if name == PLAIN:
                candidates |= placed
            else:
                candidates[name] = fitted(name, self.calls, levels)
        rows, best = list[Row](), None
        for label, method in candidates.items():
            say(f"Leaving out: {label}")
            row, errors = yield from self._measure(label, method, setup, start, folds, allowed, say)
            rows.append(row)
            if errors is not None and (best is None or errors.mean() < best[1].mean()):
                best = label, errors
                allowed.reserve(row.calls if isinstance(method, Fitted) else 0)
        if best is None:
            told = "; ".join(f"{row.label}: {row.why}" for row in rows)
            raise UsageError(f"methods={list(names)} leave nothing to choose from ({told})")
        label, errors = best
        winner = candidates[label]
        if isinstance(winner, Fitted) and not winner.is_fitted(setup):
            yield from winner.fitting(setup, start, say)
        return label, levels, rows, errors

    def _place(
        self, setup: Setup, start: Tensor, allowed: Allowance, say: Say
    ) -> Calls[tuple[dict[str, Method], str]]:
        """Plain samplers, each on its best placement, and the best one to fit others on."""
        kb, errors = setup.needs_kb(self.name), dict[str, dict[str, float]]()
        trials = torch.arange(min(self.trials, len(start)))
        steps = dict[tuple[int, ...], str]()
        for levels in PLACEMENTS:
            steps.setdefault(plan(setup.sampler, self.calls, levels).steps, levels)
        searched = needed_steps(setup.sampler, self.calls, SEARCHED)
        more = [SEARCHED] if set(searched) <= set(kb.stored_steps) else []
        for levels in [*steps.values(), *more]:
            tried = dict[str, float]()
            for base in BASES:
                method = Placed(self.calls, base, levels)
                found = yield from allowed.of(_tried(method, setup, start, trials, say))
                if found is not None:
                    tried[base] = float(found.mean())
            if len(tried) < len(BASES):  # the budget is spent: `needed_steps` left enough for one
                break
            errors[levels] = tried
        placed: dict[str, Method] = {}
        for base in BASES:
            best = min(errors, key=lambda levels: errors[levels][base])
            placed[named(base, best)] = Placed(self.calls, base, best)
        stored = [
            levels
            for levels in errors
            if set(needed_steps(setup.sampler, self.calls, levels)) <= set(kb.stored_steps)
        ]
        levels = min(stored or errors, key=lambda levels: min(errors[levels].values()))
        return placed, levels

    def _measure(
        self,
        label: str,
        method: Method,
        setup: Setup,
        start: Tensor,
        folds: Tensor,
        allowed: Allowance,
        say: Say,
    ) -> Calls[tuple[Row, Tensor | None]]:
        kb, before = setup.needs_kb(self.name), allowed.spent
        if isinstance(method, Fitted):
            lacking = set(method.needed_steps(setup)) - set(kb.stored_steps)
            if lacking:
                return Row(label, why=f"the KB has no latents after step {min(lacking)}"), None
        scratch = self._scratch(setup)
        fits = isinstance(method, Fitted)
        try:
            errors = yield from allowed.of(
                left_out_errors(method, setup, start, folds, scratch, say), keep_as_much=fits
            )
        except UsageError as error:
            return Row(label, why=str(error), calls=allowed.spent - before), None
        if errors is None:
            return Row(label, why="beyond the budget", calls=allowed.spent - before), None
        found = bootstrap_mean(_by_prompt(errors, kb.prompts))
        row = Row(label, float(errors.mean()), found.low, found.high, allowed.spent - before)
        return row, errors

    def load(self) -> None:
        kb = self.setup.needs_kb(self.name)
        path = self.path(self.setup)
        read = load_sealed(path, _WHAT, {**fitted_to(kb), "name": path.stem}, FIX)
        with damage(path, _WHAT):
            self.label = str(read.content["label"])
            self.rows = [Row(**row) for row in read.content["rows"]]
            self.cost, self.errors = cost_from(read.content), read.tensors["errors"]
            base, _, levels = self.label.partition(":")
            chosen: Method
            if levels:
                chosen = Placed(self.calls, base, levels)
            else:
                chosen = fitted(base, self.calls, str(read.content["levels"]))
        self.chosen = chosen.bind(self.setup)

    @property
    def forecast(self) -> Row:
        """The row of the chosen sampler."""
        return next(row for row in self.rows if row.label == self.label)

    def keeps(self, tolerance: float, risk: float) -> bool:
        """Whether a fresh run stays within `tolerance` with probability at least `1 - risk`.

        The split-conformal rule on left-out errors, one for each prompt and noise.
        """
        kb = self.setup.needs_kb(self.name)
        once = self.errors[first_rows(groups_of(kb.prompts, kb.noise_ids.tolist()))]
        return int((once > tolerance).sum()) + 1 <= risk * (len(once) + 1)

    def report(self, setup: Setup) -> Any:
        from rich.table import Table

        bound = self.bind(setup)
        table = Table(title=f"{self.calls} calls, error to the full run of left-out trajectories")
        for heading in ("sampler", "error", "95% interval", "calls asked for", ""):
            table.add_column(heading, justify="left" if heading in ("sampler", "") else "right")
        order = [row for row in bound.rows if row.error is not None]
        order.sort(key=lambda row: row.error or 0.0)
        for row in (*order, *(row for row in bound.rows if row.error is None)):
            told = "chosen" if row.label == bound.label else row.why
            numbers = ("", "")
            if row.error is not None:
                numbers = f"{row.error:.4f}", f"{row.low:.4f} to {row.high:.4f}"
            style = "bold" if row.label == bound.label else None
            table.add_row(row.label, *numbers, f"{row.calls:,}", told, style=style)
        return table

    @property
    def noise_scale(self) -> float:
        return self.chosen.noise_scale

    @property
    def first_divisor(self) -> Tensor | None:
        return self.chosen.first_divisor

    @property
    def timesteps(self) -> list[Tensor]:
        return self.chosen.timesteps

    def run(self, query: Query) -> Calls[Tensor]:
        return (yield from self.chosen.run(query))

    def describe(self) -> dict[str, Any]:
        told = self.chosen.describe()
        numbers = told.get("fit_numbers", 0)
        return {
            **told,
            "method": self.name,
            "estimator": self.label,
            "predicted_latent_error": self.forecast.error,
            **fit_columns(self.cost, numbers),
        }


def _tried(method: Placed, setup: Setup, start: Tensor, rows: Tensor, say: Say) -> Calls[Tensor]:
    """Relative errors (n,) of a plain sampler, its levels searched first where they are."""
    if not method.is_fitted(setup):
        yield from method.fitting(setup, start, say)
    return (yield from run_rows(method.bind(setup), start, rows))


def _by_prompt(errors: Tensor, prompts: list[str]) -> list[float]:
    """Mean error of each prompt: intervals are over prompts."""
    groups = groups_of(prompts)
    sums = torch.zeros(int(groups.max()) + 1, dtype=torch.float64).index_add(0, groups, errors)
    return (sums / groups.bincount()).tolist()
