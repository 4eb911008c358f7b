"""The error recursion of retrieval-corrected sampling, checked (PROOF.md, section 9).

One corrected step maps the visited states to `Phi(visits) + r(features)`, and the reference goes
to `Phi(exact visits) + r_i` with the true truncation error `r_i`. Hence

    E_{i+1} <= |Phi(visits) - Phi(exact)| + |r(f^) - r(f)| + tau_i,   tau_i = |r(f) - r_i|,

where `Phi` is linear in states and predictions, `|e^_j - e_j| <= eta_j alpha_j E_j`, and the
regression moves by at most `L_i |f^ - f|`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from redi.methods.corrected import Correction
from redi.methods.corrected.corrector import StepCorrection
from redi.methods.few.bases import Visit, base_step
from redi.theory.fleet import norms

#: what each feature block is made of: multiples of (E_j, noise gap) at a level `back` steps ago
_BLOCKS = {
    "prediction": (0, lambda rho: (0.0, 1.0)),
    "clean": (0, lambda rho: (1.0, rho)),
    "state": (0, lambda rho: (1.0, 0.0)),
    "previous": (1, lambda rho: (0.0, 1.0)),
    "earlier": (2, lambda rho: (0.0, 1.0)),
}


@dataclass(frozen=True)
class CorrectedRecord:
    """A batch of corrected runs beside their reference trajectories; rows are levels."""

    correction: Correction
    error: Tensor  # (n + 1, B) E_i = |y^_i - y_i|
    secant: Tensor  # (n, B) eta_i
    regression: Tensor  # (n, B) secant L_i of the regression in its features
    tau: Tensor  # (n, B) regression error at the exact state
    final_norm: Tensor  # (B,) |y_n|

    @property
    def relative_error(self) -> Tensor:
        """Relative error of the final latents (B,)."""
        return self.error[-1] / self.final_norm


class Follower:
    """Both runs level by level: `visits` as corrected, `exact` along the reference."""

    def __init__(self, correction: Correction, start: Tensor, partitions: Sequence[int]) -> None:
        self.correction, self.partitions = correction, list(partitions)
        self.y = self.y_exact = start.double()
        self.visits: list[Visit] = []
        self.exact: list[Visit] = []
        self.rows: dict[str, list[Tensor]] = {
            name: [] for name in ("error", "secant", "regression", "tau")
        }

    @property
    def level(self) -> int:
        return len(self.visits)

    def advance(self, noise: Tensor, noise_exact: Tensor, target: Tensor) -> None:
        """One step, given the predictions at both states and the reference's next state."""
        plan, level = self.correction.plan, self.level
        rho, alpha = float(plan.rho[level]), float(plan.alpha[level])
        self.visits.append(Visit(rho, self.y, noise.double()))
        self.exact.append(Visit(rho, self.y_exact, noise_exact.double()))
        gap = norms(self.y - self.y_exact)
        moved = norms(noise.double() - noise_exact.double())
        self.rows["error"].append(gap)
        self.rows["secant"].append(_ratio(moved, alpha * gap))
        step = self.correction.steps[level]
        ours, theirs = step(self.visits, self.partitions), step(self.exact, self.partitions)
        apart = norms(step.features(self.visits).double() - step.features(self.exact).double())
        self.rows["regression"].append(_ratio(norms(ours - theirs), apart))
        target = target.double()
        base = base_step(plan, self.correction.base, level, self.exact)
        self.rows["tau"].append(norms(base + theirs - target))
        self.y = base_step(plan, self.correction.base, level, self.visits) + ours
        self.y_exact = target

    def record(self) -> CorrectedRecord:
        """What was measured, once all levels are done."""
        errors = [*self.rows["error"], norms(self.y - self.y_exact)]
        columns = {name: torch.stack(rows) for name, rows in self.rows.items() if name != "error"}
        return CorrectedRecord(
            self.correction, torch.stack(errors), **columns, final_norm=norms(self.y_exact)
        )


def corrected_bound(record: CorrectedRecord, regression: Tensor | None = None) -> Tensor:
    """Bounds `B_i >= E_i` (n + 1, B) by the recursion, from measured `eta` and `tau`.

    `regression` (n,) replaces the measured secants `L_i`, for example by `known_lipschitz`.
    """
    correction = record.correction
    plan = correction.plan
    bounds = [torch.zeros_like(record.error[0])]
    for level in range(plan.calls):
        gaps = [  # bounds of |e^_j - e_j|
            record.secant[j] * float(plan.alpha[j]) * bounds[j] for j in range(level + 1)
        ]
        total = record.tau[level].clone()
        for j, (on_state, on_noise) in base_coefficients(correction, level).items():
            total += on_state * bounds[j] + on_noise * gaps[j]
        step, squared = correction.steps[level], torch.zeros_like(total)
        for name, scale in zip(step.features.names, step.features.scales, strict=True):
            back, parts = _BLOCKS[name]
            j = level - back
            on_state, on_noise = parts(float(plan.rho[j]))
            squared += (scale * (on_state * bounds[j] + on_noise * gaps[j])).square()
        slope = record.regression[level] if regression is None else regression[level]
        bounds.append(total + slope * squared.sqrt())
    return torch.stack(bounds)


def base_coefficients(correction: Correction, level: int) -> dict[int, tuple[float, float]]:
    """Absolute coefficients of the base step in (y_j, e_j) by level; the step is linear in them.

    Coefficients that act on one difference are combined before their absolute value is taken only
    within one `y_j` or one `e_j`.
    """
    plan = correction.plan

    def probe(j: int, y: float, noise: float) -> float:
        visits = [
            Visit(
                float(plan.rho[i]),
                torch.tensor(y if i == j else 0.0, dtype=torch.float64),
                torch.tensor(noise if i == j else 0.0, dtype=torch.float64),
            )
            for i in range(level + 1)
        ]
        return abs(float(base_step(plan, correction.base, level, visits)))

    return {j: (probe(j, 1.0, 0.0), probe(j, 0.0, 1.0)) for j in range(level + 1)}


def known_lipschitz(step: StepCorrection, shape: tuple[int, ...]) -> float:
    """A Lipschitz constant of a step's regression in its features (C, H, W), in closed form.

    The kernel part has its own (`KernelRidge.lipschitz`; the largest over partitions). The patch
    map is a matrix `W` on patches, and a pixel is in at most `m` of them, borders reflected, so it
    moves by at most `|W|_2 sqrt(m)` times its input.
    """
    total = max((kernel.lipschitz() for kernel in step.kernels.values()), default=0.0)
    if step.local is not None:
        planes = torch.ones(1, 1, *shape[1:], dtype=torch.float64, requires_grad=True)
        margin = step.local.patch // 2
        padded = torch.nn.functional.pad(planes, (margin,) * 4, mode="reflect")
        torch.nn.functional.unfold(padded, step.local.patch).sum().backward()
        assert planes.grad is not None
        weight = step.local.weight.double().flatten(1)
        norm = float(torch.linalg.matrix_norm(weight, ord=2))
        total += norm * float(planes.grad.max()) ** 0.5
    return total


def _ratio(moved: Tensor, apart: Tensor) -> Tensor:
    """`moved / apart`, 0 where nothing is apart: two equal inputs have equal outputs."""
    return torch.where(apart > 0, moved / apart.clamp_min(torch.finfo(torch.float64).tiny), 0.0)
