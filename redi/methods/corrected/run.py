"""Corrected runs: a few calls, each large step corrected from the knowledge base."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from redi.methods.base import Query
from redi.methods.corrected.base import Visit
from redi.methods.corrected.corrector import Correction
from redi.methods.corrected.plan import Plan
from redi.samplers import Answer, Ask, Calls


def look(
    plan: Plan,
    level: int,
    y: Tensor,
    like: Tensor,
    position: Callable[[int], int] = lambda level: level,
) -> Calls[tuple[Visit, Answer]]:
    """One network call at a level: what it said, in float64.

    Args:
        y: normalised states (B, C, H, W) float64.
        like: what the network's input is like: its dtype and device.
        position: of the call among those that a pipeline's loop goes through, by level.
    """
    alpha, step = float(plan.alpha[level]), plan.steps[level]
    latents = (y * alpha).to(like)
    divisor = plan.sampler.divisor(step, 0)
    answer = yield Ask(latents, plan.timestep(level), position(level), divisor, guidance=True)
    if not torch.equal(answer.latents, latents):  # a pipeline's callback changed them
        y = answer.latents.double() / alpha
    noise = plan.sampler.noise_prediction(answer.output, answer.latents, step)
    guidance = None if answer.guidance is None else answer.guidance.double()
    return Visit(float(plan.rho[level]), y, noise.double(), guidance), answer


def corrected_run(
    correction: Correction,
    query: Query,
    start: Tensor,
    partitions: Sequence[int],
    position: Callable[[int], int] = lambda level: level,
) -> Calls[Tensor]:
    """Final latents (B, C, H, W) of a batch, with `correction.plan.calls` calls.

    The state is kept in float64, the network sees it in its own precision.

    Args:
        start: latents of the first level (B, C, H, W).
        partitions: part of the KB with each sample's noise.
    """
    plan = correction.plan
    y = start.double() / float(plan.alpha[0])
    visits: list[Visit] = []
    for level in range(plan.calls):
        here, _ = yield from look(plan, level, y, start, position)
        with query.retrieving():
            visits.append(here)
            y = correction.step(level, visits, partitions)
    return (y * float(plan.alpha[-1])).to(start)


def primed(calls: Calls[Tensor], answer: Answer) -> Calls[Tensor]:
    """The same run, its first call answered already."""
    next(calls)
    try:
        ask = calls.send(answer)
        while True:
            ask = calls.send((yield ask))
    except StopIteration as end:
        return end.value
