"""Solvers on few levels, plain and fitted: each where the truth is known."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pytest
import torch
from running import Lab, Recorded, answered_part, lab
from torch import Tensor

from redi.errors import UsageError
from redi.methods import Fitted, Method, Query, Setup
from redi.methods.corrected import Corrected, Recipe
from redi.methods.dode import DODE
from redi.methods.few import BASES, Fit, Plan, Visit
from redi.methods.few.dmn import dmn_levels
from redi.methods.few.gits import best_path
from redi.methods.few.linear import inner_products, least_squares, residual
from redi.methods.few.placement import coarse_steps, plan
from redi.methods.few.store import Cost, load_fit, save_fit
from redi.methods.memo import Memo
from redi.methods.olss import OLSS
from redi.methods.placed import Placed
from redi.models.mixture import SCHEDULE
from redi.samplers import Ask, Calls, build_sampler, drive
from redi.samplers.coefficients import adams_bashforth, adams_bashforth_of


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return lab(tmp_path_factory.mktemp("lab"))


def error(bench: Lab, method: Method) -> float:
    return float(bench.errors(method).mean())


# placements


def test_published_tables_and_formulas_are_met_on_a_fine_grid() -> None:
    sampler = build_sampler("ddim", SCHEDULE, 1000, "trailing")
    rho = sampler.levels.rho

    def levels(calls: int, name: str) -> list[float]:
        return rho[list(plan(sampler, calls, name).steps)].tolist()

    assert levels(10, "ays")[1:4] == pytest.approx([6.475, 3.861, 2.697], rel=0.01)
    assert levels(5, "ays")[1:-1] == pytest.approx([3.861, 1.886, 0.963, 0.399], rel=0.01)
    middle = ((14.615 ** (1 / 7) + 0.0292 ** (1 / 7)) / 2) ** 7
    assert levels(2, "poly")[1] == pytest.approx(middle, rel=0.01)
    assert levels(2, "poly3")[1] > levels(2, "poly7")[1]


def test_a_start_at_pure_noise_does_not_bend_the_formulas() -> None:
    times = torch.linspace(1 - 2**-24, 0, 41, dtype=torch.float64)
    rho = times / (1 - times)
    for name in ("karras", "poly", "dmn"):
        strides = torch.tensor(coarse_steps(rho, 6, name)).diff()
        assert int(strides.max()) < 25  # not all of them beside the start


def test_a_placement_that_does_not_exist_is_refused() -> None:
    rho = torch.linspace(10, 0.1, 11, dtype=torch.float64)
    for name in ("later", "late", "late0", "poly-1", "gitsy"):
        with pytest.raises(UsageError, match=f"levels has '{name}'; use one of even, .*gits"):
            coarse_steps(rho, 3, name)


def test_the_best_path_is_the_cheapest_of_all() -> None:
    cost = torch.rand(8, 8, generator=torch.Generator().manual_seed(0)).double()
    cost = torch.where(torch.ones(8, 8).triu(1) > 0, cost, torch.inf)

    def total(path: tuple[int, ...]) -> float:
        pairs = zip(path, path[1:], strict=False)
        return sum(1.3**n * float(cost[i, j]) for n, (i, j) in enumerate(pairs))

    for strides in (1, 3, 5):
        paths = [(0, *inner, 7) for inner in combinations(range(1, 7), strides - 1)]
        assert tuple(best_path(cost, strides, 1.3)) == min(paths, key=total)


def test_dmn_levels_fall_and_depend_on_nothing_but_the_range() -> None:
    rho = dmn_levels(14.6, 0.029, 6, 2.0)
    assert rho[0] == 14.6 and rho[-1] == pytest.approx(0.029)
    assert all(a > b for a, b in zip(rho, rho[1:], strict=False))
    assert dmn_levels(14.6, 0.029, 1, 2.0) == (14.6, 0.029)


@pytest.mark.parametrize("levels", ["gits_l2", "oss"])
def test_fitted_levels_beat_even_ones(levels: str, bench: Lab) -> None:
    found = bench.fitted(Placed(4, "ddim", levels))
    assert error(bench, found) < 0.75 * error(bench, Placed(4))
    columns = found.describe()
    assert columns["fit_numbers"] == 5 and columns["fit_calls"] > 0 < columns["fit_seconds"]


def test_searches_that_may_take_every_level_take_them_all(tmp_path: Path) -> None:
    small = lab(tmp_path, steps=4, count=8)
    for levels in ("gits", "gits_l2", "oss", "olss"):
        assert small.fitted(Placed(4, "ddim", levels)).plan.steps == (0, 1, 2, 3, 4)


def test_kbs_that_begin_alike_share_what_is_searched_on_their_beginning(bench: Lab) -> None:
    bench.fitted(Placed(3, "ddim", "oss"))
    fewer = replace(bench.setup, kb=bench.setup.kb.first(32))  # type: ignore[union-attr]
    assert Placed(3, "ddim", "oss").is_fitted(fewer)
    assert not Placed(3, "ddim", "gits").is_fitted(fewer)  # reads more than 32
    assert not Placed(3, "ddim", "oss").is_fitted(
        replace(fewer, kb=fewer.kb.first(8))  # type: ignore[union-attr]
    )


def test_the_teacher_s_own_levels_are_found_where_all_others_cost(bench: Lab) -> None:
    """With as many calls as levels less one, OSS leaves out what changes the end least."""
    small = lab(bench.setup.kb.root / "small", steps=5, count=8)  # type: ignore[union-attr]
    found = small.fitted(Placed(4, "ddim", "oss")).plan.steps
    errors = {}
    for out in range(1, 5):
        steps = tuple(step for step in range(6) if step != out)
        chosen = Plan(small.setup.sampler, steps)
        method = Placed(4).bind(small.setup)
        method._plan = chosen
        outcome = small.run(method).latents.double()
        full = small.run(Placed(5).bind(small.setup)).latents.double()
        errors[steps] = float((outcome - full).square().mean())
    assert found in sorted(errors, key=lambda steps: errors[steps])[:2]


# plain bases


def test_variable_steps_of_equal_length_are_adams_bashforth() -> None:
    for order in range(1, 5):
        rho = [5.0 + 0.5 * i for i in range(order)]
        weights = adams_bashforth_of(rho, 4.5)
        assert weights == pytest.approx(adams_bashforth(order), abs=1e-9)


@pytest.mark.parametrize("order", [2, 3, 4])
def test_variable_steps_integrate_polynomials_exactly(order: int) -> None:
    levels = [9.0, 5.0, 4.0, 1.5, 0.0]
    visits, y = [], torch.zeros(1, 1, 1, 1, dtype=torch.float64)
    base = BASES["ipndm_v" if order == 4 else f"ipndm_v{order}"]
    for i, (rho, to) in enumerate(zip(levels, levels[1:], strict=False)):
        slope = rho ** min(i, order - 1)  # of no higher degree than the run can know by now
        noise = torch.full_like(y, slope)
        visits = [Visit(v.rho, v.y, torch.full_like(y, v.rho ** min(i, order - 1))) for v in visits]
        visits.append(Visit(rho, y, noise))
        power = min(i, order - 1) + 1
        expected = y + (to**power - rho**power) / power
        y = base(visits, to, False)
        torch.testing.assert_close(y, expected, rtol=1e-9, atol=1e-9)


def test_extrapolation_takes_away_all_of_eulers_error_where_the_slope_is_linear() -> None:
    rho, y = [4.0, 2.5, 0.5], torch.zeros(1, 1, 1, 1, dtype=torch.float64)
    visits = []
    for here, to in zip(rho, rho[1:], strict=False):
        visits.append(Visit(here, y, torch.full_like(y, 3 * here)))
        y = BASES["rx"](visits, to, to == rho[-1])
    assert float(y) == pytest.approx(3 * (rho[-1] ** 2 - rho[0] ** 2) / 2)


def test_more_of_the_history_is_nearer_to_the_truth(bench: Lab) -> None:
    euler = error(bench, Placed(6, "ddim", "karras"))
    for base in ("ipndm2", "ipndm_v", "deis", "dpm_solver_pp"):
        assert error(bench, Placed(6, base, "karras")) < euler
    assert error(bench, Placed(4, "rx")) < error(bench, Placed(4))


# the analytic first step


def test_an_analytic_first_step_is_a_call_of_a_network_that_sees_pure_noise() -> None:
    sampler = build_sampler("ddim", SCHEDULE, 20, "trailing")
    noise = torch.randn(2, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    query = Query(noise, (0, 0), (0, 1))
    seen = {True: 0, False: 0}

    for base in ("ddim", "ipndm_v", "dpm_solver_pp"):
        results = []
        for analytic, calls in ((True, 4), (False, 5)):
            method = Placed(calls, base, "late1.5", analytic, grid=20).bind(
                Setup(sampler, SCHEDULE)
            )

            def predict(latents: Tensor, t: Tensor, analytic: bool = analytic) -> Tensor:
                seen[analytic] += 1
                first = float(t) == float(sampler.scheduler.timesteps[0])
                return latents if first else torch.tanh(latents)

            results.append(drive(method.run(query), predict))
            assert len(method.timesteps) == calls
        torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)
    assert seen == {True: 12, False: 15}


# fitted scalars


@pytest.mark.parametrize("method", [OLSS(4, "even"), DODE(4), OLSS(4, "even", states="visited")])
def test_a_teacher_that_is_the_base_itself_leaves_nothing_to_fit(
    method: Fitted, tmp_path: Path
) -> None:
    same = lab(tmp_path, steps=4, count=16)
    assert float(same.errors(method).max()) < 1e-5
    if isinstance(method, DODE):
        assert float(same.fitted(method).fit.tensors["lambda"].abs().max()) < 1e-4  # type: ignore[attr-defined]


def test_d_ode_finds_the_lambdas_that_its_teacher_was_made_with(bench: Lab, tmp_path: Path) -> None:
    wanted, seen = torch.tensor([0.3, -0.2, 0.1, 0.05], dtype=torch.float64), []
    made = DODE(4, base="dpm_solver_pp")
    made.setup, made.fit = bench.setup, Fit(plan(bench.setup.sampler, 4), {"lambda": wanted})
    count = len(bench.prompts)

    def spied() -> Calls[Tensor]:
        run = made.run(Query(bench.start, (0,) * count, tuple(range(count))))
        ask = next(run)
        try:
            while True:
                seen.append(ask.latents)
                ask = run.send((yield ask))
        except StopIteration as end:
            return end.value

    end = answered_part(spied(), bench.model, bench.prompts)
    states = dict(zip(made.plan.steps, [*seen, end], strict=True))
    kb = Recorded(tmp_path, bench.prompts, states)
    taught = replace(bench, setup=replace(bench.setup, kb=kb))
    found = taught.fitted(DODE(4, base="dpm_solver_pp")).fit.tensors["lambda"]  # type: ignore[attr-defined]
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("method", "base", "share"),
    [
        (OLSS(4, "even"), Placed(4), 0.5),
        (OLSS(4, "oss", states="visited"), Placed(4, "ddim", "oss"), 0.3),
        (DODE(4), Placed(4), 0.6),
        (DODE(4, base="dpm_solver_pp"), Placed(4, "dpm_solver_pp"), 0.6),
        (DODE(4, "oss", base="ipndm_v"), Placed(4, "ipndm_v", "oss"), 0.8),
        (DODE(4, "even", True), Placed(4, "ddim", "even", True), 0.8),
    ],
)
def test_it_beats_its_base(method: Fitted, base: Method, share: float, bench: Lab) -> None:
    assert error(bench, method) < share * error(bench, base)


def test_the_cost_of_a_fit_is_counted_where_it_is_asked(bench: Lab) -> None:
    count = len(bench.prompts)
    columns = bench.fitted(OLSS(4, "even")).describe()
    assert columns["fit_calls"] == 4 * count and columns["fit_numbers"] == 2 + 3 + 4 + 5
    columns = bench.fitted(DODE(4, "olss")).describe()
    assert columns["fit_calls"] == 20 * count + 4 * count and columns["fit_numbers"] == 4
    recipe = Recipe(parts=("local",), patches=(1,), levels=("even",))
    columns = bench.fitted(Corrected(3, recipe, analytic=True)).describe()
    assert columns["fit_calls"] == 3 * count and columns["fit_numbers"] > 0
    assert len(columns["levels"]) == 5 and len(columns["parts"]) == 3


def test_scalars_are_those_of_a_full_least_squares_fit() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = list(torch.randn(4, 70, 2, 3, 3, generator=generator).double())
    weights = least_squares(rows[:3], rows[3])
    flat = torch.stack([row.flatten() for row in rows], 1)
    again = torch.linalg.lstsq(flat[:, :3], flat[:, 3:]).solution[:, 0]
    torch.testing.assert_close(weights, again)
    left = (flat[:, :3] @ again - flat[:, 3]).square().mean()
    assert residual(inner_products(rows), [0, 1, 2], 3) == pytest.approx(float(left))
    twice = least_squares([rows[0], rows[0], rows[1]], rows[3])
    assert float(twice[0]) == pytest.approx(float(twice[1]))  # what repeats shares its weight


def test_a_fit_is_read_as_it_was_kept(bench: Lab, tmp_path: Path) -> None:
    sampler, of = bench.setup.sampler, {"kb": "a", "model": "b"}
    fit = Fit(Plan(sampler, (0, 3, 20), True), {"x": torch.randn(3)}, Cost(7, 0.5), {"n": 1})
    path = tmp_path / "fit.safetensors"
    save_fit(path, fit, of)
    again = load_fit(path, sampler, of)
    assert (again.plan, again.cost, again.notes) == (fit.plan, fit.cost, fit.notes)
    assert torch.equal(again.tensors["x"], fit.tensors["x"])
    with pytest.raises(UsageError, match="another kb"):
        load_fit(path, sampler, of | {"kb": "c"})
    with pytest.raises(UsageError, match="another plan"):
        load_fit(path, build_sampler("ddim", SCHEDULE, 10, "trailing"), of)
    save_fit(path, Fit(fit.plan, {"x": torch.tensor([torch.nan])}), of)
    with pytest.raises(UsageError, match="x is not made of finite numbers"):
        load_fit(path, sampler, of)
    raw = path.read_bytes()
    path.write_bytes(raw[:-3])
    with pytest.raises(UsageError, match="is damaged"):
        load_fit(path, sampler, of)


def test_names_that_do_not_exist_are_refused(bench: Lab) -> None:
    for kind, settings, words in (
        (OLSS, {"states": "maybe"}, "states='maybe' is unknown"),
        (DODE, {"base": "dim"}, "base='dim' is unknown.*did you mean 'ddim'"),
        (Placed, {"base": "dim"}, "base='dim' is unknown"),
        (OLSS, {"levels": "evenly"}, "levels has 'evenly'"),
        (Placed, {"levels": "evenly"}, "levels has 'evenly'"),
    ):
        with pytest.raises(UsageError, match=words):
            kind(4, **settings)
    with pytest.raises(UsageError, match="calls has 21"):
        bench.fitted(OLSS(21, "even"))


def test_answers_of_equal_calls_are_free_but_cost_what_they_cost() -> None:
    ask = Ask(torch.zeros(3, 1, 1, 1), torch.tensor(0), 0, rows=torch.tensor([0, 2]))

    def asking() -> Calls[int]:
        answer = yield ask
        again = yield ask
        return len(answer.latents) + len(again.latents)

    cost, memo = Cost(), Memo()
    calls = cost.of(asking())
    with pytest.raises(StopIteration) as end:
        wanted = next(calls)
        while True:
            kept = memo.find(wanted) or memo.keep(wanted, torch.zeros(2, 1, 1, 1), None, 5.0)
            wanted = calls.send(kept.to(wanted))
    assert end.value.value == 6 and memo.rows == 2
    assert cost.calls == 4 and 10 <= cost.seconds < 11
