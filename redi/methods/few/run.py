"""Runs over few levels: one call at each, then one large step."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from redi.lazy import Tensor, torch
from redi.methods.base import Query
from redi.methods.few.bases import Visit
from redi.methods.few.plan import Plan
from redi.samplers import Answer, Ask, Calls

#: the state at level + 1 from the level and the visits so far, oldest first
Step = Callable[[int, Sequence[Visit]], Tensor]


def opening(plan: Plan, start: Tensor) -> tuple[list[Visit], Tensor]:
    """What a run knows before its first call: visits without a call, and the state `y` there.

    Args:
        start: latents of the first call (B, C, H, W).
    """
    y = start.double() / float(plan.alpha[plan.asked.start])
    if not plan.analytic:
        return [], y
    rho, first = float(plan.rho[0]), y / plan.first_gain
    return [Visit(rho, first, first / (1 + rho**2) ** 0.5)], y


def look(
    plan: Plan,
    level: int,
    y: Tensor,
    like: Tensor,
    position: Callable[[int], int] | None = None,
) -> Calls[tuple[Visit, Answer]]:
    """One network call at a level: what it said, in float64.

    Args:
        y: normalised states (B, C, H, W) float64.
        like: what the network's input is like: its dtype and device.
        position: of the call among those that a pipeline's loop goes through, by level; None: it
            goes through the plan's own.
    """
    alpha, step = float(plan.alpha[level]), plan.steps[level]
    latents = (y * alpha).to(like)
    divisor = plan.sampler.divisor(step, 0)
    at = level - plan.asked.start if position is None else position(level)
    answer = yield Ask(latents, plan.timestep(level), at, divisor, guidance=True)
    if not torch.equal(answer.latents, latents):  # a pipeline's callback changed them
        y = answer.latents.double() / alpha
    noise = _noise(plan, level, answer)
    guidance = None if answer.guidance is None else answer.guidance.double()
    return Visit(float(plan.rho[level]), y, noise, guidance), answer


def _noise(plan: Plan, level: int, answer: Answer) -> Tensor:
    """The noise prediction (B, C, H, W) float64 at a level."""
    sampler, step = plan.sampler, plan.steps[level]
    if float(sampler.levels.alpha[step]) > 0:
        return sampler.noise_prediction(answer.output, answer.latents, step).double()
    alpha, rho = float(plan.alpha[level]), float(plan.rho[level])  # where a flow starts
    return sampler.noise_at(answer.output.double(), answer.latents.double(), alpha, rho * alpha)


def walk(
    plan: Plan,
    step: Step,
    query: Query,
    start: Tensor,
    position: Callable[[int], int] | None = None,
) -> Calls[Tensor]:
    """Final latents (B, C, H, W) of a batch, with `plan.calls` calls.

    The state is kept in float64, the network sees it in its own precision.

    Args:
        start: latents of the first call (B, C, H, W).
    """
    visits, y = opening(plan, start)
    for level in plan.asked:
        here, _ = yield from look(plan, level, y, start, position)
        with query.retrieving():
            visits.append(here)
            y = step(level, visits)
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
