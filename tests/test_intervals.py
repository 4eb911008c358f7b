"""Bootstrap intervals: determinism, coverage, and refusals."""

from __future__ import annotations

import numpy as np
import pytest

from redi.metrics.frechet import fit_gaussian, frechet_distance
from redi.metrics.intervals import (
    bootstrap_mean,
    bootstrap_statistic,
)


def test_mean_interval_is_deterministic_and_near_the_normal_one():
    values = np.random.default_rng(0).normal(3, 2, 400)
    estimate = bootstrap_mean(values)
    assert estimate == bootstrap_mean(values) and estimate != bootstrap_mean(values, seed=1)
    assert estimate.mean == pytest.approx(values.mean()) and estimate.count == 400
    half = 1.96 * values.std() / 20
    assert estimate.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert estimate.high == pytest.approx(values.mean() + half, abs=0.1 * half)


def test_mean_interval_does_not_depend_on_the_block_size(monkeypatch):
    values = np.random.default_rng(1).exponential(size=50)
    whole = bootstrap_mean(values, resamples=300)
    monkeypatch.setattr("redi.metrics.intervals._BLOCK", 1000)
    assert bootstrap_mean(values, resamples=300) == whole


def test_mean_interval_covers_as_often_as_it_says():
    rng = np.random.default_rng(2)
    covered = [
        estimate.low <= 0.3 <= estimate.high
        for estimate in (
            bootstrap_mean(rng.random(80) < 0.3, seed, resamples=400) for seed in range(400)
        )
    ]
    assert 0.90 <= np.mean(covered) <= 0.98


def test_wider_level_gives_wider_interval():
    values = np.random.default_rng(3).normal(size=60)
    narrow, wide = bootstrap_mean(values, level=0.5), bootstrap_mean(values, level=0.99)
    assert wide.low < narrow.low < narrow.mean < narrow.high < wide.high


def test_statistic_interval_matches_the_spread_over_fresh_draws():
    rng = np.random.default_rng(5)
    reference = fit_gaussian(rng.normal(size=(2000, 8)))

    def distance(rows: np.ndarray) -> float:
        return frechet_distance(fit_gaussian(rows), reference)

    draws = [rng.normal(0.3, 1, size=(150, 8)) for _ in range(200)]
    fresh = np.array([distance(rows) for rows in draws])
    estimates = [bootstrap_statistic(rows, distance, resamples=60) for rows in draws[:20]]
    assert estimates[0] == bootstrap_statistic(draws[0], distance, resamples=60)
    assert estimates[0].mean == pytest.approx(fresh[0])
    assert all(e.low < e.mean < e.high and e.count == 150 for e in estimates)
    width = np.mean([e.high - e.low for e in estimates])
    low, high = np.quantile(fresh, [0.025, 0.975])
    assert width == pytest.approx(high - low, rel=0.25)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="1 pictures; an interval needs at least 2"):
        bootstrap_mean([1.0])
    with pytest.raises(ValueError, match="1 entries that are not finite"):
        bootstrap_mean([1.0, np.inf])
    with pytest.raises(ValueError, match="level is 95"):
        bootstrap_mean([1.0, 2.0], level=95)
    with pytest.raises(ValueError, match="resamples is 1"):
        bootstrap_mean([1.0, 2.0], resamples=1)
    with pytest.raises(ValueError, match=r"give \(pictures, dimensions\)"):
        bootstrap_statistic([1.0, 2.0], np.mean)
