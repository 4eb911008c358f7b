"""Training a span solver end to end, by damped Gauss-Newton steps on the error at the end.

Networks answer calls and give no gradients, so the end's sensitivity to each number is a difference
quotient over runs of the trajectories: the number is changed a little and the run made again from
the first call that it changes. The small least-squares system of Levenberg and Marquardt is solved
in float64. A step counts only if it lowers the error of trajectories that it did not see.
"""

from __future__ import annotations

from dataclasses import dataclass

from redi.lazy import Tensor, torch
from redi.methods.base import Say
from redi.methods.span.solver import Parameters
from redi.samplers import Calls

_CHANGE = 0.01  # of a number, for its difference quotient
_WORTH = 5e-3  # least relative fall of the error that another step is taken after
_BLOCK = 1 << 18  # entries of the residual that are multiplied at once


@dataclass(frozen=True)
class Trained:
    """The numbers found, and what became of the error."""

    vector: Tensor  #                     (P,) float64
    #: mean relative error of the trajectories that steps were not computed from, before and after
    before: float
    after: float
    sweeps: int


def train(
    parameters: Parameters,
    start: Tensor,
    target: Tensor,
    seen: int,
    judges: Tensor,
    like: Tensor,
    sweeps: int,
    say: Say,
) -> Calls[Trained]:
    """Numbers that lower the mean relative error of the end.

    Args:
        start: first states (K, ...) float64 in rectified coordinates; `target`: last ones.
        seen: steps are computed from the first so many trajectories.
        judges: trajectories (J,) by which they are judged.
        like: what the network's input is like: its dtype and device.
        sweeps: steps at most.
    """
    vector = torch.zeros(parameters.count, dtype=torch.float64)
    ends, clean = yield from parameters.solver(vector).run(start, like)
    best = before = _errors(ends, target)[judges].mean().item()
    damping, done = 1e-2, 0
    for done in range(1, sweeps + 1):
        known = [said[:seen] for said in clean]
        columns = yield from _sensitivities(
            parameters, vector, start[:seen], ends[:seen], target[:seen], known, like
        )
        errors = _errors(ends, target)[:seen]
        normal, slope = _normal_equations(columns, ends[:seen], target[:seen], errors)
        found: tuple[float, float, Tensor, Tensor, list[Tensor]] | None = None
        for tried in (damping / 10, damping, damping * 10, damping * 100, damping * 1000):
            if found is not None and tried > damping * 10:
                break
            candidate = vector + _step(normal, slope, tried, parameters.reach(vector))
            there, said = yield from parameters.solver(candidate).run(start, like, clean[:1])
            error = _errors(there, target)[judges].mean().item()
            if error < (best if found is None else found[0]):
                found = error, tried, candidate, there, said
        if found is None:
            break
        gained, (best, damping, vector, ends, clean) = best - found[0], found
        say(f"sweep {done}: error {before:.4f} to {best:.4f}")
        damping = max(damping, 1e-7)
        if gained < _WORTH * best:
            break
    return Trained(vector, before, best, done)


def _sensitivities(
    parameters: Parameters,
    vector: Tensor,
    start: Tensor,
    ends: Tensor,
    target: Tensor,
    known: list[Tensor],
    like: Tensor,
) -> Calls[Tensor]:
    """Derivatives of the relative residual by each number (P, K, D), float32."""
    norms = target.flatten(1).norm(dim=1, keepdim=True)
    columns = torch.zeros((parameters.count, *ends.flatten(1).shape), device=ends.device)
    for number, call in enumerate(parameters.from_call):
        changed = vector.clone()
        changed[number] += _CHANGE
        there, _ = yield from parameters.solver(changed).run(start, like, known[:call])
        columns[number] = ((there - ends).flatten(1) / (_CHANGE * norms)).float()
    return columns


def _normal_equations(
    columns: Tensor, ends: Tensor, target: Tensor, errors: Tensor
) -> tuple[Tensor, Tensor]:
    """Matrix (P, P) and gradient (P,) float64 of the sum of relative errors.

    Each trajectory's square is divided by its error, which makes the sum of squares one of norms:
    a run that went to another picture does not outweigh all others.
    """
    norms = target.flatten(1).norm(dim=1, keepdim=True)
    floor = 0.1 * errors.mean()
    weights = (errors.mean() / errors.clamp_min(floor)).sqrt()[:, None]
    residual = ((ends - target).flatten(1) / norms * weights).flatten()
    rows = (columns * weights.float()).flatten(1)
    normal = torch.zeros((len(rows), len(rows)), dtype=torch.float64, device=rows.device)
    slope = torch.zeros(len(rows), dtype=torch.float64, device=rows.device)
    for part, rest in zip(rows.split(_BLOCK, 1), residual.split(_BLOCK), strict=True):
        block = part.double()
        normal += block @ block.T
        slope += block @ rest
    return normal.cpu(), slope.cpu()


def _step(normal: Tensor, slope: Tensor, damping: float, reach: Tensor) -> Tensor:
    """Levenberg-Marquardt, damped in the units of each number; no number goes beyond its reach.

    Those that would are set to it, and the others are solved for again.
    """
    diagonal = normal.diagonal()
    units = torch.where(diagonal > 0, diagonal, torch.ones_like(diagonal)).sqrt()
    scaled = normal / units[:, None] / units
    scaled = scaled + damping * torch.eye(len(units), dtype=torch.float64)
    step = -torch.linalg.solve(scaled, slope / units)
    limit = reach * units
    stopped = step.abs() > limit
    if bool(stopped.any()):
        step = torch.where(stopped, step.sign() * limit, 0)
        free = ~stopped
        rest = -(slope / units + scaled @ step)[free]
        step[free] = torch.linalg.solve(scaled[free][:, free], rest)
        step = torch.minimum(torch.maximum(step, -limit), limit)
    return step / units


def _errors(ends: Tensor, target: Tensor) -> Tensor:
    """Relative errors (K,)."""
    return (ends - target).flatten(1).norm(dim=1) / target.flatten(1).norm(dim=1)
