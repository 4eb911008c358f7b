"""Published metrics against the packages that define them, with an injected extractor."""

from __future__ import annotations

import importlib.util
import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import nn

from redi.config import Config
from redi.data.pixels import to_pixels
from redi.metrics.batch import BatchResult, Table
from redi.metrics.catalogue import metrics_from
from redi.metrics.cmmd import cmmd
from redi.metrics.diversity import pairwise_distance
from redi.metrics.fid import Fid, Kid
from redi.metrics.frechet import kernel_distance
from redi.metrics.images import clean_features
from redi.metrics.needs import InceptionFeatures
from redi.metrics.weights import WEIGHTS, inception, locate
from redi.verbs.run import main_job

_PATH = Path(__file__).parent.parent / "experiments" / "metrics" / "parity.py"
_SPEC = importlib.util.spec_from_file_location("parity", _PATH)
assert _SPEC is not None and _SPEC.loader is not None
parity = importlib.util.module_from_spec(_SPEC)
sys.modules["parity"] = parity  # dataclasses look their module up
_SPEC.loader.exec_module(parity)


def test_every_metric_is_that_of_its_package():
    rows = parity.rows()
    assert [(row.metric, row.entry.split(".")[0]) for row in rows[:4]] == [
        ("FID", "cleanfid"),
        ("KID", "cleanfid"),
        ("FID", "torchmetrics"),
        ("KID", "torchmetrics"),
    ]
    assert len(rows) == 6 and all(row.theirs > 0.1 for row in rows)
    for row in rows:
        assert row.ours == pytest.approx(row.theirs, rel=1e-6), row
    table = [line for line in parity.PAGE.read_text().splitlines() if line.startswith("|")]
    assert len(table) == 2 + len(rows)  # the committed table is of these comparisons
    for row, line in zip(rows, table[2:], strict=True):
        assert row.metric in line and row.entry in line


def test_cmmd_is_its_formula_and_zero_for_equal_sets():
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(5, 4)), rng.normal(size=(6, 4)) + 1
    assert cmmd(a, a) == pytest.approx(0, abs=1e-9)

    def mean(x: np.ndarray, y: np.ndarray) -> float:
        return float(np.mean([np.exp(-np.sum((p - q) ** 2) / 200) for p in x for q in y]))

    assert cmmd(a, b) == pytest.approx(1000 * (mean(a, a) + mean(b, b) - 2 * mean(a, b)))


def test_diversity_is_the_mean_distance_of_pairs():
    rows = np.zeros((2, 3, 2))
    rows[0] = [[0, 0], [3, 4], [0, 0]]
    np.testing.assert_allclose(pairwise_distance(rows), [10 / 3, 0])
    with pytest.raises(ValueError, match="at least 2 pictures"):
        pairwise_distance(rows[:, :1])


def test_missing_weights_are_one_sentence_with_the_path(tmp_path: Path):
    for kind, weights in WEIGHTS.items():
        told = locate(kind, tmp_path, download=False)
        assert isinstance(told, str) and "left out" in told
        assert str(tmp_path / weights.name) in told and told.count("\n") == 0
        (tmp_path / weights.name).touch()
        assert locate(kind, tmp_path, download=False) == tmp_path / weights.name


def test_a_failed_download_leaves_no_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def broken(path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError("connection lost")

    monkeypatch.setitem(WEIGHTS, "lpips", type(WEIGHTS["lpips"])("LPIPS", "alex.pth", broken))
    told = locate("lpips", tmp_path, download=True)
    assert isinstance(told, str) and "connection lost" in told
    assert not (tmp_path / "alex.pth").exists()


def test_the_run_goes_on_without_the_metrics_that_lack_weights(
    tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    config, said = tiny_config, io.StringIO()
    config.metrics.hooks = ["cost", "inception", "clip", "lpips"]
    config.metrics.weights = str(tmp_path / "weights")
    config.data.num_queries, config.baselines, config.report.sheet_rows = 2, ["plain"], 0
    metrics, notes = metrics_from(config)
    assert [metric.name for metric in metrics] == ["cost"] and len(notes) == 3
    folder = main_job(config, tmp_path / "run", True, Console(file=said, width=400), alone=False)
    assert all(note in said.getvalue() for note in notes)
    for point in json.loads((folder / "results.json").read_text())["points"]:
        assert point["calls"] > 0
        assert not {"fid", "kid", "lpips", "openai_clip_score", "cmmd"} & set(point)


class Inception(InceptionFeatures):
    """The injected extractor in Inception's place."""

    def __init__(self, real: list[np.ndarray]) -> None:
        self.network = parity.Extractor()  # 6 features
        self.real = clean_features(real, self.network)


def test_fid_waits_for_enough_pictures_and_kid_does_not():
    rng = np.random.default_rng(0)
    shared = Inception(list(rng.integers(0, 256, (8, 8, 8, 3), dtype=np.uint8)))
    made = torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    result = BatchResult([0, 1, 2, 3, 4], ["a"] * 5, None, {}, {"full": made}, 1)
    config, found = Config(), {}
    for allow_few in (False, True):
        config.metrics.allow_few, table = allow_few, Table()
        metrics = [kind(config, {"inception": shared}) for kind in (Fid, Kid)]
        for metric in metrics:
            table.add("full", result.indices, metric.measure(result)["full"])
        found[allow_few] = {k: v for m in metrics for k, v in m.summarise(table, "full").items()}
    assert len(result.features) == 1  # computed once for both
    assert set(found[False]) == {"kid"} and set(found[True]) == {"kid", "fid"}
    features = clean_features(to_pixels(made), shared.network)
    assert found[True]["kid"] == found[False]["kid"] == kernel_distance(features, shared.real)


def test_inception_sees_pixels_around_zero(tmp_path: Path):
    class Weights(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2048))

    weights = Weights()
    torch.jit.script(weights).save(str(tmp_path / "weights.pt"))
    images = torch.tensor([0.0, 128.0, 255.0]).repeat(2, 1)[..., None, None].expand(2, 3, 9, 9)
    expected = weights.layers[2](torch.tensor([[-1, 0, 127 / 128]])).expand(2, -1)
    torch.testing.assert_close(inception(tmp_path / "weights.pt")(images), expected)
