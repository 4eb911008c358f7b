"""A sampler whose every state is any combination of its start and of all predictions so far.

`x_{i+1} = a_i x_0 + sum_{j <= i} b_ij u_j`, with free times at which the network is called: the
form of bespoke non-stationary solvers (BNS, Shaul et al. 2024), of S4S and of OLSS, and so all that
a method with shared scalars can do. It is parametrised around DPM-Solver++ 2M on the chosen levels,
which all parameters zero are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from redi.lazy import Tensor, torch
from redi.methods.span.levels import Between, NoiseLevel, look
from redi.samplers import Calls, Sampler
from redi.samplers.coefficients import dpm_solver


@dataclass(frozen=True)
class Row:
    """One update, `z' = initial z_0 + carry z + sum_j weights[j] d_j`, predictions oldest first."""

    initial: float
    carry: float
    weights: tuple[float, ...]

    def __call__(self, z: Tensor, first: Tensor, clean: Sequence[Tensor]) -> Tensor:
        total = self.carry * z + self.initial * first
        for weight, said in zip(self.weights, clean, strict=False):
            total = total + weight * said
        return total


@dataclass(frozen=True)
class SpanSolver:
    """Levels of the calls and of the end, and one row per call."""

    sampler: Sampler
    levels: tuple[NoiseLevel, ...]
    rows: tuple[Row, ...]

    @property
    def calls(self) -> int:
        return len(self.rows)

    def run(
        self, start: Tensor, like: Tensor, known: Sequence[Tensor] = ()
    ) -> Calls[tuple[Tensor, list[Tensor]]]:
        """The last state and the predictions of all calls, from the first state `start`.

        Args:
            start: (B, ...) float64 in rectified coordinates.
            like: what the network's input is like: its dtype and device.
            known: predictions of the first calls, which are then not made.
        """
        z, first, clean = start, start, list(known)
        for i, row in enumerate(self.rows):
            if i >= len(known):
                shown, said = yield from look(self.sampler, self.levels[i], z, like, i)
                first = shown if i == 0 else first
                z = shown
                clean.append(said)
            z = row(z, first, clean)
        return z, clean


class Parameters:
    """The numbers of a span solver as one vector, zero for the base sampler.

    First the places of the inner levels, as shifts of `log rho`; then, for every update, the weight
    of the start and those of the newest prediction and of the differences of successive ones,
    newest first.
    """

    def __init__(self, between: Between, levels: Sequence[NoiseLevel]) -> None:
        self.between, self.levels = between, tuple(levels)
        self.calls = len(levels) - 1

    @property
    def count(self) -> int:
        """`n (n + 5) / 2 - 1` for `n` calls."""
        return self.calls - 1 + sum(i + 2 for i in range(self.calls))

    @property
    def from_call(self) -> list[int]:
        """For each parameter the first call that it changes; `calls`: none, the end alone."""
        rows = [i + 1 for i in range(self.calls) for _ in range(i + 2)]
        return [*range(1, self.calls), *rows]

    def logs(self, vector: Tensor) -> Tensor:
        """`log rho` of the inner levels (n - 1,), falling."""
        own = torch.tensor([level.rho for level in self.levels[1:-1]], dtype=torch.float64).log()
        return own + vector[: self.calls - 1]

    def reach(self, vector: Tensor) -> Tensor:
        """How far each number (P,) may be moved at once: levels by less than half a gap."""
        free = torch.full((self.count,), torch.inf, dtype=torch.float64)
        ends = torch.tensor([self.levels[0].rho, self.between.lowest], dtype=torch.float64).log()
        inner = self.logs(vector)
        gaps = -torch.cat([ends[:1], inner, ends[1:]]).diff()
        free[: self.calls - 1] = 0.45 * torch.minimum(gaps[:-1], gaps[1:])
        return free

    def solver(self, vector: Tensor) -> SpanSolver:
        """The sampler of a vector (P,)."""
        shifts, rest = vector[: self.calls - 1].tolist(), vector[self.calls - 1 :].tolist()
        moved = self.logs(vector).exp().tolist()
        inner = [
            self.between.at(rho) if shift else level
            for rho, shift, level in zip(moved, shifts, self.levels[1:-1], strict=True)
        ]
        levels = [self.levels[0], *inner, self.levels[-1]]
        rows = []
        for i in range(self.calls):
            rows.append(_row(levels, i, rest[: i + 2]))
            rest = rest[i + 2 :]
        return SpanSolver(self.between.sampler, tuple(levels), tuple(rows))


def _row(levels: Sequence[NoiseLevel], i: int, numbers: Sequence[float]) -> Row:
    """DPM-Solver++ 2M, of first order in the first and the last update, and what is added to it."""
    here, there = levels[i], levels[i + 1]
    carry = there.time / here.time
    weights = [0.0] * (i + 1)
    if i == 0 or i == len(levels) - 2:
        weights[i] = 1.0
    else:
        weights[i], weights[i - 1] = dpm_solver([here.rho, levels[i - 1].rho], there.rho, -1)
    initial, newest, *differences = numbers
    weights[i] += newest
    for k, number in enumerate(differences):
        weights[i - k] += number
        weights[i - k - 1] -= number
    gain = 1 - carry
    return Row(initial * here.time, carry, tuple(gain * weight for weight in weights))
