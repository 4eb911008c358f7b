"""PAS: sampling directions corrected in a basis of few vectors (Wang et al. 2025)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from redi.lazy import Tensor, torch
from redi.methods.base import Say, register
from redi.methods.few import FittedSolver, Plan, Teacher, Visit, look
from redi.methods.few.run import opening
from redi.ranges import check_ranges, within
from redi.samplers import Calls
from redi.samplers.coefficients import adams_bashforth, noise_step

_ROUNDS = 100  # of reweighting, at most
_SETTLED = 1e-7  # relative fall of the loss at which it stops

#: coordinates (k,) float64 of the levels whose direction is corrected
Coordinates = Mapping[int, Tensor]


@register
@dataclass
class PAS(FittedSolver):
    """Euler or iPNDM steps along directions that shared coordinates make in each sample's basis.

    A sample's basis is its present direction `d = (y - clean) / rho` and the leading right singular
    vectors of all that it went through: its start, its corrected directions and `d`, made
    orthonormal. The corrected direction is `sum_k c_k u_k` with the same `c` for all samples, which
    makes the mean absolute error of the next state least; a step keeps it only where that falls by
    more than `tolerance`. The loss is convex in the few `c`, so it is minimised to the end by
    reweighted least squares, where the paper runs Adam.
    """

    name = "pas"
    title = "PAS"
    #: order that iPNDM rises to; 1: Euler, which is DDIM
    order: int = within(1, 1, 4)
    #: of the basis, the direction itself among them
    vectors: int = within(4, 1, 10)
    #: by how much a step's correction has to lower the mean absolute error of the next state
    tolerance: float = within(1e-4, 0)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ranges(self)

    def fit_to(self, plan: Plan, teacher: Teacher, say: Say) -> Calls[dict[str, Tensor]]:
        visits, y = opening(plan, teacher.first_call(plan))
        found: dict[int, Tensor] = {}
        for level in plan.asked:
            here, _ = yield from look(plan, level, y, teacher.start)
            visits.append(here)
            plain = ipndm_step(plan, self.order, visits)
            if level == 0:  # nothing is known but the start and its direction
                y = plain
                continue
            target = teacher.state(plan.steps[level + 1])
            basis = directions(visits, self.vectors)
            gain = ipndm_gain(plan, self.order, visits)
            rest = target - (plain - gain * here.noise)
            length = here.noise.flatten(1).norm(dim=1).mean()
            coordinates = least_absolute([gain * u for u in basis], rest, length)
            corrected = [*visits[:-1], replace(here, noise=combined(basis, coordinates))]
            tried = ipndm_step(plan, self.order, corrected)
            before, after = (float((state - target).abs().mean()) for state in (plain, tried))
            y = plain
            if before - after > self.tolerance:
                found[level], visits, y = coordinates, corrected, tried
        say(f"PAS corrects {len(found)} of {plan.calls} steps")
        return {str(level): coordinates for level, coordinates in found.items()}

    def take(self) -> None:
        self._coordinates = {int(level): c for level, c in self.fit.tensors.items()}

    def step(self, level: int, visits: Sequence[Visit], partitions: Sequence[int]) -> Tensor:
        kept = corrected_visits(visits, self._coordinates, self.vectors)
        return ipndm_step(self.plan, self.order, kept)


def ipndm_step(plan: Plan, order: int, visits: Sequence[Visit]) -> Tensor:
    """iPNDM's step from the last visit, with fixed weights of rising order (Zhang & Chen 2023)."""
    rho, change = plan.target(len(visits) - 1)
    newest = visits[-order:][::-1]
    update = noise_step(newest[0].rho, rho, adams_bashforth(len(newest)))
    return update.apply(newest[0].y, [visit.noise for visit in newest]) * change


def ipndm_gain(plan: Plan, order: int, visits: Sequence[Visit]) -> float:
    """What that step multiplies the newest direction by."""
    rho, change = plan.target(len(visits) - 1)
    return (rho - visits[-1].rho) * adams_bashforth(min(len(visits), order))[0] * change


def corrected_visits(
    visits: Sequence[Visit], coordinates: Coordinates, vectors: int
) -> list[Visit]:
    """The visits, which begin at the first level, with their corrected directions."""
    kept: list[Visit] = []
    for level, visit in enumerate(visits):
        kept.append(visit)
        if level in coordinates:
            noise = combined(directions(kept, vectors), coordinates[level])
            kept[-1] = replace(visit, noise=noise)
    return kept


def directions(visits: Sequence[Visit], count: int) -> list[Tensor]:
    """Orthonormal vectors of each sample, each (B, C, H, W): at most `count`, at most one more than
    there are visits.

    The first is the last visit's direction. The others are the right singular vectors of start and
    directions, uncentred, by Gram-Schmidt, each turned so that it points as the run went.
    """
    now, start = visits[-1], visits[0].y
    rows = [start, *(visit.noise for visit in visits)]
    gram = torch.stack([torch.stack([_dot(a, b) for b in rows], 1) for a in rows], 1)
    shares = torch.linalg.eigh(gram).eigenvectors.flip(2)  # (B, m, m), largest first
    found = [_unit(now.noise)]
    for k in range(min(count, len(rows)) - 1):
        vector = sum((_each(shares[:, j, k], r) * r for j, r in enumerate(rows)), 0 * start)
        vector = _unit(vector)
        for _ in range(2):  # twice is enough (Kahan)
            for known in found:
                vector = vector - _each(_dot(vector, known), known) * known
        sign = torch.where(_dot(vector, now.y - start) < 0, -1.0, 1.0).to(vector)
        found.append(_each(sign, vector) * _unit(vector))
    return found


def least_absolute(columns: Sequence[Tensor], target: Tensor, scale: Tensor) -> Tensor:
    """Numbers `c` (k,) that make the mean of `|target - sum_k c_k columns[k]|` least.

    Reweighted least squares from the least squares; `scale`, the length of what is combined, makes
    the numbers comparable to 1.
    """
    rows = torch.stack([(scale * column).flatten() for column in columns])
    wanted = target.flatten()
    weights, loss = torch.ones_like(wanted), torch.inf
    best = torch.zeros(len(rows), dtype=rows.dtype, device=rows.device)
    for _ in range(_ROUNDS):
        weighted = rows * weights
        normal, moment = (weighted @ rows.T).cpu(), (weighted @ wanted).cpu()
        found = torch.linalg.lstsq(normal, moment[:, None]).solution[:, 0].to(rows.device)
        off = (wanted - found @ rows).abs()
        if not float(off.mean()) < loss * (1 - _SETTLED):
            break
        best, loss = found, float(off.mean())
        weights = 1 / off.clamp_min(1e-6 * off.mean())
    return best * scale


def combined(basis: Sequence[Tensor], coordinates: Tensor) -> Tensor:
    """`sum_k c_k u_k` (B, C, H, W)."""
    return sum((c * u for c, u in zip(coordinates, basis, strict=True)), 0 * basis[0])


def _dot(one: Tensor, other: Tensor) -> Tensor:
    """Inner product of each sample (B,)."""
    return (one * other).flatten(1).sum(1)


def _each(numbers: Tensor, like: Tensor) -> Tensor:
    """A number of each sample (B,), shaped to multiply (B, C, H, W)."""
    return numbers.reshape(-1, *[1] * (like.dim() - 1))


def _unit(vectors: Tensor) -> Tensor:
    return vectors / _each(_dot(vectors, vectors).sqrt(), vectors)
