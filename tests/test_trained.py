"""Optimised solvers: neutral numbers are the base, and fitted ones beat it where truth is known."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from mixtures import Bench, bench

from redi.methods.dc import DCSolver, best_ratio, compensated, compensated_step
from redi.methods.few import Visit, look
from redi.methods.few.run import opening
from redi.methods.pas import PAS, directions, least_absolute
from redi.methods.placed import Placed
from redi.methods.span import Span
from redi.methods.span.levels import Between, levels_of
from redi.methods.span.solver import Parameters


@pytest.fixture(scope="module")
def known() -> Bench:
    return bench()


@pytest.fixture(scope="module")
def unseen() -> Bench:
    return bench(seed=1)


def plain(one: Bench, calls: int, base: str, levels: str = "even") -> torch.Tensor:
    return one.run(Placed(calls, base, levels).bind(one.setup))


def neutral(calls: int) -> dict[str, dict[str, torch.Tensor]]:
    numbers = torch.zeros(calls * (calls + 5) // 2 - 1, dtype=torch.float64)
    return {
        "span": {"numbers": numbers},
        "dc_solver": {"ratios": torch.ones(calls, dtype=torch.float64)},
        "pas": {},
    }


@pytest.mark.parametrize(
    "method, base, exact",
    [
        (Span, "dpm_solver_pp", False),
        (DCSolver, "unipc", True),
        (PAS, "ddim", True),
        (lambda n: PAS(n, order=4), "pndm", True),
    ],
)
@pytest.mark.parametrize("calls", [1, 2, 6])
def test_neutral_numbers_are_the_base(
    method: Any, base: str, exact: bool, calls: int, known: Bench
) -> None:
    one = method(calls)
    found = known.run(known.with_numbers(one, neutral(calls)[one.name]))
    want = plain(known, calls, base)
    assert torch.equal(found, want) if exact else torch.allclose(found, want, atol=1e-12)


@pytest.mark.parametrize(
    "method, base, most",
    [
        (Span(5, sweeps=3), "dpm_solver_pp", 0.1),
        (DCSolver(5), "unipc", 0.9),
        (PAS(5), "ddim", 0.8),
        (PAS(5, order=3), "pndm", 0.9),
    ],
)
def test_a_fit_beats_its_base_on_prompts_and_noises_that_it_never_saw(
    method: Any, base: str, most: float, known: Bench, unseen: Bench
) -> None:
    fitted = known.fitted(method)
    errors = unseen.error(unseen.run(fitted)), unseen.error(plain(unseen, 5, base))
    assert errors[0] < most * errors[1]


def test_one_call_of_a_span_solver_is_exact_on_one_gaussian() -> None:
    # unguided and with one component, the end is a combination of the start and the prediction
    one = bench(count=16, guidance=1.0, most=1)
    fitted = one.fitted(Span(1, sweeps=8))
    assert one.error(plain(one, 1, "dpm_solver_pp")) > 0.05
    assert one.error(one.run(fitted)) < 1e-4


def test_what_a_number_changes_is_measured_from_where_it_acts(known: Bench) -> None:
    parameters = Parameters(Between(known.sampler), levels_of(known.plan(4)))
    assert parameters.count == 17 and len(parameters.from_call) == 17
    start = known.start / parameters.levels[0].scale
    zero = torch.zeros(17, dtype=torch.float64)
    end, clean = known.answered(parameters.solver(zero).run(start, known.start))
    for number, call in enumerate(parameters.from_call):
        changed = zero.clone()
        changed[number] = 0.01
        solver = parameters.solver(changed)
        whole, _ = known.answered(solver.run(start, known.start))
        short, _ = known.answered(solver.run(start, known.start, clean[:call]))
        assert torch.equal(whole, short) and not torch.equal(whole, end)


def test_a_level_moves_less_than_half_way_to_the_next_and_stays_on_the_schedule(
    known: Bench,
) -> None:
    parameters = Parameters(Between(known.sampler), levels_of(known.plan(4)))
    zero = torch.zeros(parameters.count, dtype=torch.float64)
    reach = parameters.reach(zero)
    assert reach[3:].isinf().all() and (reach[:3] > 0).all()
    for sign in (1, -1):
        step = torch.where(reach.isinf(), 0, sign * reach * torch.tensor([1, -1, 1] + [0] * 14))
        levels = parameters.solver(step).levels
        assert all(a.rho > b.rho for a, b in zip(levels, levels[1:], strict=False))
        for level in levels[1:-1]:
            assert level.alpha**2 + level.sigma**2 == pytest.approx(1)
            alpha, sigma = known.model.level(float(level.timestep))  # type: ignore[arg-type]
            assert float(sigma / alpha) == pytest.approx(level.rho, rel=2e-2)


def test_the_ratio_is_the_best_on_a_fine_grid(known: Bench) -> None:
    plan, teacher = known.plan(5), known.teacher
    visits, y = opening(plan, teacher.start)
    for level in range(3):
        here, _ = known.answered(look(plan, level, y, teacher.start))
        visits.append(here)
        y = compensated_step(plan, [1.0] * 5, visits)
    target = teacher.state(plan.steps[3])

    def loss(ratio: float) -> float:
        off = compensated_step(plan, [1.0, 1.0, ratio], visits) - target
        return float(off.square().mean())

    best = best_ratio(plan, [1.0] * 5, visits, target)
    grid = torch.linspace(-1, 3, 401).tolist()
    assert loss(best) <= min(map(loss, grid)) < 0.9 * loss(1.0)
    # at ratio 0 the prediction is the one before
    assert torch.allclose(
        compensated(plan, [1.0, 1.0, 0.0], visits)[2].clean, visits[1].clean, atol=1e-10
    )


def test_the_basis_is_orthonormal_in_what_the_run_went_through(known: Bench) -> None:
    generator = torch.Generator().manual_seed(0)
    draw = lambda: torch.randn(3, 2, 4, 4, generator=generator, dtype=torch.float64)  # noqa: E731
    visits = [Visit(float(3 - i), draw(), draw()) for i in range(3)]
    basis = torch.stack([u.flatten(1) for u in directions(visits, 4)], 1)  # (B, 4, D)
    assert torch.allclose(basis @ basis.mT, torch.eye(4, dtype=torch.float64), atol=1e-10)
    assert torch.allclose(
        basis[:, 0] * visits[2].noise.flatten(1).norm(dim=1)[:, None], visits[2].noise.flatten(1)
    )
    went = torch.stack([visits[0].y, *(v.noise for v in visits)], 1).flatten(2)
    inside = (went @ basis.mT) @ basis
    assert torch.allclose(inside, went, atol=1e-9)  # four vectors span all four
    along = (basis[:, 1:] * (visits[2].y - visits[0].y).flatten(1)[:, None]).sum(2)
    assert (along > 0).all()
    leading = torch.linalg.svd(went, full_matrices=False).Vh[:, 0]
    first = torch.stack([u.flatten(1) for u in directions(visits, 2)], 1)
    assert torch.allclose((leading[:, None] @ first.mT).norm(dim=2), torch.ones(3, 1).double())


def test_least_absolute_of_a_constant_is_the_median() -> None:
    target = torch.randn(1001, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = least_absolute([torch.ones(1001).double()], target, torch.tensor(7.0).double())
    assert float(found) == pytest.approx(float(target.median()), abs=1e-3)


@pytest.mark.parametrize("method", [Span(4, sweeps=1), DCSolver(4), PAS(4, order=2)])
def test_a_sample_does_not_depend_on_its_batch(method: Any, known: Bench) -> None:
    fitted, alone = known.fitted(method), replace(known, together=1)
    assert torch.equal(alone.run(fitted)[:3], alone.chosen(torch.arange(3)).run(fitted))
