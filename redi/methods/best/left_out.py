"""Errors of whole runs on trajectories that their method was not fitted to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from redi.errors import UsageError
from redi.knowledge_base import KnowledgeBase, Part
from redi.lazy import Tensor, torch
from redi.methods.base import Fitted, Method, Query, Say, Setup
from redi.methods.corrected.groups import groups_of
from redi.samplers import Calls

Result = TypeVar("Result")


def folds_of(
    prompts: Sequence[str], noises: Sequence[int], partitions: np.ndarray, folds: int
) -> Tensor:
    """The fold (K,) in which each trajectory is left out, with all that repeat it.

    Every noise partition is spread over the folds, in an order that only chance decides.
    """
    groups = groups_of(prompts, noises)
    known, first = np.unique(groups.numpy(), return_index=True)
    order = np.random.default_rng(0).permutation(len(known))
    order = order[np.argsort(partitions[first[order]], kind="stable")]
    fold = torch.empty(len(known), dtype=torch.long)
    fold[torch.from_numpy(order)] = torch.arange(len(known)) % folds
    if len(known) < 2 * folds:
        raise UsageError(
            f"kb.size={len(groups)} holds {len(known)} different trajectories, too few to leave "
            f"them out in {folds} parts: use at least {2 * folds}"
        )
    return fold[groups]


def for_rows(calls: Calls[Result], rows: Tensor, count: int) -> Calls[Result]:
    """A fit or a run of some trajectories as one of all: it asks for calls of its rows.

    Args:
        rows: trajectories that the calls are for, int64 (n,); `count`: how many there are.
    """
    try:
        ask = next(calls)
        while True:
            asking = torch.arange(len(ask.latents)) if ask.rows is None else ask.rows.cpu()
            mine = rows[asking]
            whole = ask.latents.new_zeros((count, *ask.latents.shape[1:]))
            whole[mine] = ask.latents[asking]
            answer = yield replace(ask, latents=whole, rows=mine)
            output, guidance = (
                None if one is None else _spread(one[mine], asking, ask.latents)
                for one in (answer.output, answer.guidance)
            )
            assert output is not None
            told = replace(answer, latents=ask.latents, output=output, guidance=guidance)
            ask = calls.send(told)
    except StopIteration as end:
        return end.value


def _spread(part: Tensor, rows: Tensor, like: Tensor) -> Tensor:
    """What some rows were told as one of the whole batch; the others are zero."""
    found = part.new_zeros(like.shape)
    found[rows] = part
    return found


@dataclass
class Allowance:
    """Network calls that may still be made, one for each trajectory that asks."""

    left: float
    spent: int = 0
    #: kept for the fit of what is best so far
    reserved: int = 0

    @classmethod
    def of_budget(cls, budget: int | None) -> Allowance:
        """None: any number."""
        return cls(math.inf if budget is None else budget)

    def reserve(self, calls: int) -> None:
        """Keep so many for a last fit."""
        self.reserved = calls

    def of(self, calls: Calls[Result], keep_as_much: bool = False) -> Calls[Result | None]:
        """The same run; None as soon as it would ask for more than is left.

        Args:
            keep_as_much: leave as many calls as the run takes, for a fit to all trajectories.
        """
        share = 2 if keep_as_much else 1
        most = self.spent + (self.left - self.reserved) // share
        try:
            ask = next(calls)
            while True:
                wanted = len(ask.latents) if ask.rows is None else len(ask.rows)
                if self.spent + wanted > most:
                    calls.close()
                    return None
                self.left -= wanted
                self.spent += wanted
                ask = calls.send((yield ask))
        except StopIteration as end:
            return end.value


def left_out_errors(
    method: Method, setup: Setup, start: Tensor, folds: Tensor, scratch: Path, say: Say
) -> Calls[Tensor]:
    """Relative error (K,) of the final latents of every trajectory.

    A method that has to be fitted is fitted once for each fold, to the other folds.

    Args:
        start: latents that the trajectories began with (K, C, H, W).
        scratch: folder for those fits; what methods share, as levels, is fitted there once.
    """
    kb, count = setup.needs_kb(method.name), len(start)
    errors = torch.empty(count, dtype=torch.float64)
    for fold in range(int(folds.max()) + 1):
        rows, others = (one.nonzero()[:, 0] for one in (folds == fold, folds != fold))
        there = replace(setup, kb=Part(kb, others, scratch))
        if isinstance(method, Fitted) and not method.is_fitted(there):
            yield from for_rows(method.fitting(there, start[others], say), others, count)
        errors[rows] = yield from run_rows(method.bind(there), start, rows, kb)
    return errors


def run_rows(
    method: Method, start: Tensor, rows: Tensor, whole: KnowledgeBase | None = None
) -> Calls[Tensor]:
    """Relative errors (n,) of a bound method's runs of some trajectories of a KB.

    Args:
        start: latents that all trajectories began with (K, C, H, W); `rows`: which are run.
        whole: the KB of these trajectories; None: the one that the method is bound to.
    """
    setup, kb = method.setup, whole or method.setup.needs_kb(method.name)
    begun, scale = start[rows].to(setup.device), setup.sampler.noise_scale
    partitions = tuple(kb.partitions[rows.numpy()].tolist())
    query = Query(begun / scale, partitions, tuple(rows.tolist()), begun=(begun, scale))
    latents = yield from for_rows(method.run(query), rows, len(start))
    return relative_errors(latents, kb.latents(setup.sampler.num_steps, rows)).cpu()


def relative_errors(latents: Tensor, target: Tensor) -> Tensor:
    """`|x - x*| / |x*|` of each sample (B,), float64."""
    wanted = target.reshape(latents.shape).to(latents.device).double()
    off = (latents.double() - wanted).flatten(1).norm(dim=1)
    return off / wanted.flatten(1).norm(dim=1)
