"""DPM-Solver-v3: DPM-Solver++ where its statistics are neutral, exact where they say everything."""

from __future__ import annotations

import pytest
import torch
from running import Lab, lab

from redi.methods.few import Fit, Visit, base_step
from redi.methods.few.placement import plan
from redi.methods.placed import Placed
from redi.methods.v3 import DPMSolverV3, Statistics, statistics


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return lab(tmp_path_factory.mktemp("lab"))


def test_neutral_statistics_make_it_dpm_solver_pp(bench: Lab) -> None:
    chosen, shape = plan(bench.setup.sampler, 5, "late1.5"), (2, 3, 4)
    one, none = torch.ones(20, *shape).double(), torch.zeros(19, *shape).double()
    method = DPMSolverV3(5)
    method.setup, method.fit = bench.setup, Fit(chosen, {"l": one, "s": none, "b": none})
    method.take()
    generator, visits = torch.Generator().manual_seed(0), list[Visit]()
    for level in chosen.asked:
        y, e = torch.randn(2, 3, *shape, generator=generator).double()
        visits.append(Visit(float(chosen.rho[level]), y, e))
        expected = base_step(chosen, "dpm_solver_pp", level, visits)
        torch.testing.assert_close(method.step(level, visits, ()), expected, rtol=1e-12, atol=1e-12)


def test_two_linear_equations_are_solved_exactly() -> None:
    """`y' = -l y - f`, `f' = s f + b`, over several of the teacher's levels, small steps beside."""
    h, many = 0.1, 10_000
    rho = torch.tensor([(-h * i) for i in range(8)], dtype=torch.float64).exp()
    rate, s, b = 0.3, -0.7, 0.4
    full = [torch.full((n, 1), value).double() for n, value in ((7, rate), (6, s), (6, b))]
    known = Statistics(rho, *full)
    y, f, states = 2.0, -1.5, [(2.0, -1.5)]
    for i in range(6 * many):
        middle = f + h / many / 2 * (s * f + b)
        slope = -rate * (y + h / many / 2 * (-rate * y - f)) - middle
        y, f = y + h / many * slope, f + h / many * (s * middle + b)
        if (i + 1) % many == 0:
            states.append((y, f))
    visits = [
        Visit(float(rho[i]), torch.tensor([y]), torch.tensor([(f + rate * y) / float(rho[i])]))
        for i, (y, f) in enumerate(states)
    ]
    for before, row in ((None, (0, 6)), (2, (4, 6))):
        found = known.row(before, *row, float(rho[row[1]]))([visits[before or 0], visits[row[0]]])
        # between levels the constant of the equation is spread evenly
        assert float(found[0]) == pytest.approx(states[6][0], rel=1e-3)


def test_statistics_are_those_that_trajectories_were_made_with() -> None:
    generator = torch.Generator().manual_seed(0)
    rho = torch.linspace(0, -0.5, 6).double().exp()
    slope = torch.rand(5, 2, generator=generator).double()
    s, b = torch.randn(2, 4, 2, generator=generator).double()
    f = [torch.randn(30, 2, generator=generator).double()]
    for i in range(4):  # the implicit midpoint rule, which differences of levels invert
        h = float((rho[i] / rho[i + 1]).log())
        f.append((f[i] * (1 + h * s[i] / 2) + h * b[i]) / (1 - h * s[i] / 2))
    states = [torch.randn(30, 2, generator=generator).double() for _ in range(6)]
    noises = [(f[i] + slope[i] * states[i]) / rho[i] for i in range(5)]
    found = statistics(rho, states, noises, slope)
    torch.testing.assert_close(found["s"], s)
    torch.testing.assert_close(found["b"], b)


@pytest.mark.parametrize("calls", [5, 8])
def test_it_beats_its_base_on_a_mixture(calls: int, bench: Lab) -> None:
    mine = float(bench.errors(DPMSolverV3(calls)).mean())
    assert mine < 0.9 * float(bench.errors(Placed(calls, "dpm_solver_pp")).mean())


def test_its_cost_is_one_call_and_one_probe_a_level(bench: Lab) -> None:
    found = bench.fitted(DPMSolverV3(5))
    columns = found.describe()
    assert columns["fit_calls"] == 2 * 20 * len(bench.prompts)
    assert columns["fit_numbers"] == (20 + 19 + 19) * bench.start[0].numel()
