"""Search, weights and estimators against direct computations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from redi.errors import UsageError
from redi.retrieval import ESTIMATORS, WEIGHTS, ExactSearch, Jump, straight


def jump_of(weights: torch.Tensor, **items: torch.Tensor) -> Jump:
    b, n = weights.shape
    shape = (b, n, 2, 3, 3)
    generator = torch.Generator().manual_seed(0)

    def draw(*size: int) -> torch.Tensor:
        return torch.randn(*size, generator=generator, dtype=torch.float64)

    defaults = {
        "query_key": draw(b, 2, 3, 3),
        "query_prediction": draw(b, 2, 3, 3),
        "keys": draw(*shape),
        "predictions": draw(*shape),
        "values": draw(*shape),
    }
    return Jump(**{**defaults, **items}, weights=weights, stride=-3.0)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 40), st.integers(1, 6), st.integers(1, 5), st.integers(1, 3), st.integers(0, 99)
)
def test_search_equals_brute_force(
    count: int, neighbours: int, queries: int, parts: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    common = 30 * rng.normal(size=(1, 8))  # as with one shared noise: a large common part
    keys = torch.from_numpy((common + rng.normal(size=(count, 8)).round(1)).astype(np.float32))
    partitions = np.arange(count) % parts
    asked = torch.from_numpy((common + rng.normal(size=(queries, 8))).astype(np.float32))
    wanted = [i % min(parts, count) for i in range(queries)]
    search = ExactSearch(keys, partitions)
    neighbours = min(neighbours, search.smallest_partition())
    found = search.search(asked, wanted, neighbours)
    for i, part in enumerate(wanted):
        members = np.flatnonzero(partitions == part)
        exact = (keys[members].double() - asked[i].double()).norm(dim=-1).numpy()
        order = np.lexsort((members, exact))[:neighbours]
        assert found.rows[i].tolist() == members[order].tolist()
        assert np.allclose(found.distances[i].numpy(), exact[order], rtol=1e-12, atol=0)


def test_a_stored_key_is_at_distance_zero() -> None:
    keys = 100 + torch.randn(50, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    found = ExactSearch(keys, np.zeros(50, int)).search(keys, [0] * 50, 1)
    assert found.rows[:, 0].tolist() == list(range(50))
    assert float(found.distances.max()) == 0.0


def test_a_noise_without_trajectories_is_refused() -> None:
    with pytest.raises(UsageError, match="no trajectory with noise 3"):
        ExactSearch(torch.randn(4, 5), np.zeros(4, int)).search(torch.randn(1, 5), [3], 1)


def test_weights_solve_their_problem() -> None:
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(3, 20, generator=generator, dtype=torch.float64)
    keys = torch.randn(3, 4, 20, generator=generator, dtype=torch.float64)
    weights = WEIGHTS["least_squares"](query, keys)
    residual = query - (weights[..., None] * keys).sum(1)
    assert float((keys @ residual[..., None]).abs().max()) < 1e-10  # normal equations
    single = WEIGHTS["least_squares"](query, keys[:, :1])
    expected = (query * keys[:, 0]).sum(-1) / keys[:, 0].square().sum(-1)
    assert torch.allclose(single[:, 0], expected)
    for name in ("affine", "softmax", "uniform"):
        assert torch.allclose(WEIGHTS[name](query, keys).sum(-1), torch.ones(3).double())


def test_weights_find_an_exact_combination() -> None:
    keys = torch.randn(1, 3, 30, generator=torch.Generator().manual_seed(0)).double()
    truth = torch.tensor([[0.5, 0.7, -0.2]]).double()
    query = (truth[..., None] * keys).sum(1)
    assert torch.allclose(WEIGHTS["least_squares"](query, keys), truth)
    assert torch.allclose(WEIGHTS["affine"](query, keys), truth, atol=0.02)


@pytest.mark.parametrize("rule", WEIGHTS)
@pytest.mark.parametrize("name", ESTIMATORS)
def test_the_own_trajectory_returns_its_own_value(name: str, rule: str) -> None:
    base = jump_of(torch.ones(2, 1).double())
    own = jump_of(
        WEIGHTS[rule](base.query_key.flatten(1), base.query_key.flatten(1)[:, None]),
        keys=base.query_key[:, None],
        predictions=base.query_prediction[:, None],
    )
    assert torch.allclose(ESTIMATORS[name](own), own.values[:, 0], rtol=1e-12)


def test_delta_is_exact_where_neighbours_curve_like_the_query() -> None:
    base = jump_of(torch.tensor([[0.3, 0.7]]).double())
    bend = torch.full((1, 2, 3, 3), 0.25).double()
    truth = straight(base) + bend
    values = base.keys + base.stride * base.predictions + bend[:, None]
    jump = jump_of(base.weights, values=values)
    assert torch.allclose(ESTIMATORS["delta"](jump), truth)
    assert not torch.allclose(ESTIMATORS["paper"](jump), truth)


def test_transport_adds_the_neighbours_displacement() -> None:
    base = jump_of(torch.tensor([[1.0]]).double())
    jump = jump_of(base.weights, values=base.keys + 2)
    assert torch.allclose(ESTIMATORS["transport"](jump), base.query_key + 2)
