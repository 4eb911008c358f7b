"""Adaptive budgets and regressions on the nearest trajectories."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from redi.config import Config, CorrectionConfig, MetricsConfig
from redi.errors import UsageError
from redi.methods.corrected.adaptive import fit_policy
from redi.methods.corrected.kernel import Choice, fit_kernel
from redi.methods.corrected.nearest import fit_nearest
from redi.methods.corrected.store import load_policy, save_policy
from redi.retrieval.weights import kernel
from redi.verbs.entries import recipe_from
from redi.verbs.run import main_job

BUDGETS = (8, 4, 2)


def queries(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Features (count, 5) whose first entry says how hard a query is, and errors by budget."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(count, 5, generator=generator)
    luck = torch.randn(count, 3, generator=generator, dtype=torch.float64)
    errors = torch.exp(0.8 * features[:, :1].double() + 0.2 * luck) / torch.tensor(BUDGETS)
    return features, errors


def test_hard_queries_get_more_calls_and_the_promise_is_kept() -> None:
    features, errors = queries(300, 0)
    policy = fit_policy(features, errors, BUDGETS, tolerance=0.4, risk=0.1)
    fresh, truth = queries(2000, 1)
    chosen = policy.calls(fresh)
    spent = torch.tensor([20 if calls is None else calls for calls in chosen]).double()
    taken = [
        0.0 if calls is None else float(truth[i, BUDGETS.index(calls)])
        for i, calls in enumerate(chosen)
    ]
    assert float((torch.tensor(taken) > 0.4).double().mean()) <= 0.13
    easy, hard = fresh[:, 0] < -1, fresh[:, 0] > 1
    assert float(spent[easy].mean()) < 3 and float(spent[hard].mean()) > 10
    exceeding = {n: int((errors[:, i] > 0.4).sum()) for i, n in enumerate(BUDGETS)}
    assert policy.fixed == min(n for n, count in exceeding.items() if count + 1 <= 0.1 * 301)
    assert fit_policy(features, errors, BUDGETS, 100.0, 0.1).calls(fresh) == [2] * 2000
    hopeless = fit_policy(features, errors, BUDGETS, 1e-9, 0.1).calls(fresh)
    assert hopeless.count(None) > 0.86 * 2000  # no more than the risk is tried


def test_a_saved_policy_chooses_the_same(tmp_path: Path) -> None:
    features, errors = queries(60, 0)
    policy = fit_policy(features, errors, BUDGETS, 0.4, 0.2)
    save_policy(tmp_path / "policy.safetensors", policy, {"kb": "a"})
    again = load_policy(tmp_path / "policy.safetensors", {"kb": "a"})
    fresh = queries(50, 1)[0]
    assert again.calls(fresh) == policy.calls(fresh)
    assert torch.equal(again.scores(fresh), policy.scores(fresh))
    assert (again.budgets, again.fixed, again.threshold) == (
        BUDGETS,
        policy.fixed,
        policy.threshold,
    )
    (tmp_path / "policy.safetensors").write_bytes(b"nothing")
    with pytest.raises(UsageError, match="is damaged"):
        load_policy(tmp_path / "policy.safetensors", {"kb": "a"})


def test_a_run_reports_what_its_adaptive_budget_promised(
    tiny_config: Config, tmp_path: Path
) -> None:
    tiny_config.baselines = []
    tiny_config.metrics = MetricsConfig(hooks=["cost", "fidelity"], resamples=50)
    tiny_config.correction = CorrectionConfig(
        calls=[2, 5], against=[], patches=[1], levels=["even"], tolerance=0.2, risk=0.4
    )
    folder = main_job(tiny_config, tmp_path / "run", True, Console(quiet=True))
    points = json.loads((folder / "results.json").read_text())["points"]
    point = next(p for p in points if "tolerance" in p)
    import pyarrow.parquet as pq

    rows = pq.read_table(folder / "per_image.parquet").to_pylist()
    mine = [r["latent_error"] for r in rows if r["entry"] == "corrected@adaptive"]
    assert point["exceeded"] == pytest.approx(float(np.mean(np.array(mine) > 0.2)))
    assert point["exceeded_low"] <= point["exceeded"] <= point["exceeded_high"]
    fixed = {
        (r["query"], r["noise"], n): r["latent_error"]
        for r in rows
        for n in (2, 5)
        if r["entry"] == f"corrected@{n}"
    }
    # every query's picture is that of one of the budgets, or the full run
    for row in rows:
        if row["entry"] == "corrected@adaptive":
            known = [fixed[row["query"], row["noise"], n] for n in (2, 5)] + [0.0]
            assert min(abs(row["latent_error"] - e) for e in known) < 1e-5
    assert 2 <= point["calls"] <= 11


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tolerance": 0.0}, "correction.tolerance=0.0"),
        ({"tolerance": 0.1, "risk": 1.0}, "correction.risk=1.0"),
        ({"tolerance": 0.1, "calls": [4]}, "at least two"),
        ({"nearest": 0}, "correction.nearest=0"),
    ],
)
def test_bad_settings_are_refused(
    tiny_config: Config, changes: dict[str, object], words: str
) -> None:
    tiny_config.correction = CorrectionConfig(**{"calls": [2, 5], **changes})  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=words):
        recipe_from(tiny_config)


def test_the_nearest_rows_are_all_rows_where_all_are_asked_for() -> None:
    generator = torch.Generator().manual_seed(0)
    inputs, fresh = (torch.randn(n, 6, generator=generator) for n in (30, 7))
    targets = torch.sin(inputs @ torch.randn(6, 4, generator=generator))
    choices = [Choice("gaussian", 1.0, 1e-2)]
    _, guess, errors = fit_nearest(inputs, targets, choices, 29)
    everything = fit_nearest(inputs, targets, choices, 500)[0]
    assert everything.nearest == 29  # a left-out row has no more than the others
    _, left_out, _ = fit_kernel(inputs, targets, choices)
    # all the other rows are the same system as leaving one row out
    assert torch.allclose(guess, left_out, atol=1e-3)
    assert errors[choices[0]] == pytest.approx(float((guess - targets).square().mean()))
    near, _, _ = fit_nearest(inputs, targets, choices, 5)
    one = fit_kernel(inputs, targets, choices)[0]
    far = near(fresh)
    distances = (fresh[0] - inputs).norm(dim=1).topk(5, largest=False).indices
    rows = inputs[distances] - near.centre
    gram = 1 + torch.exp(-torch.cdist(rows, rows).square() / 2 / one.scale**2)
    towards = 1 + torch.exp(
        -(fresh[0] - near.centre - rows).norm(dim=1).square() / 2 / one.scale**2
    )
    weights = torch.linalg.solve(gram + 1e-2 * torch.eye(5), towards)
    assert torch.allclose(far[0], weights @ targets[distances], atol=1e-4)


def test_kernel_weights_predict_what_the_neighbours_know() -> None:
    generator = torch.Generator().manual_seed(0)
    keys = torch.randn(3, 60, 4, generator=generator, dtype=torch.float64)
    query = keys[:, 0] * 0.5
    weights = kernel(query, keys)
    assert torch.allclose(weights.sum(1), torch.ones(3, dtype=torch.float64))
    linear = torch.randn(4, generator=generator, dtype=torch.float64)
    guess = (weights * (keys @ linear)).sum(1)
    mean = (keys @ linear).mean(1)
    truth = query @ linear
    assert ((guess - truth).abs() < 0.25 * (mean - truth).abs().clamp_min(0.2)).all()
    same = kernel(keys[:, 3], keys)
    assert (same.argmax(1) == 3).all()
    alone = kernel(query, keys[:, :1])
    assert torch.allclose(alone, torch.ones_like(alone))
