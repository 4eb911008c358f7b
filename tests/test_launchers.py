"""Sweeps and experiments: each point once, one summary, shared knowledge bases."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hydra import compose, initialize_config_dir

from redi import cli
from redi.composition import CONF
from redi.schemas import register


def small(model: Path) -> list[str]:
    """Overrides that make a run of seconds."""
    return [
        "model=local", f"model.path={model}", "model.batch_size=4", "sampling.steps=8",
        "sampling.guidance_scale=2.5", "kb.size=4", "kb.shard_size=4", "kb.key_step=2",
        "data.num_queries=4", "metrics.hooks=[cost,fidelity]", "metrics.resamples=50",
        "baselines=[plain]", "report.sheet_rows=0",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "launcher",
    [
        ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"],
        ["hydra/launcher=submitit_local", "hydra.launcher.timeout_min=10"],
        ["hydra/launcher=ray"],
    ],
    ids=["joblib", "submitit", "ray"],
)
def test_a_sweep_on_other_processes_resumes(
    launcher: list[str], tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    if launcher == ["hydra/launcher=ray"]:  # an extra of its own: it brings much
        pytest.importorskip("hydra_plugins.hydra_ray_launcher")
    monkeypatch.chdir(tmp_path)
    arguments = ["redi", "-m", *small(tiny_folder), "retrieval.value_step=4,6", "run_dir=sweep"]
    arguments += launcher
    monkeypatch.setattr(sys, "argv", arguments)
    cli.main()
    done = sorted((tmp_path / "sweep").glob("*/results.json"))
    assert len(done) == 2
    rows = pq.read_table(tmp_path / "sweep" / "points.parquet").to_pylist()
    assert len({row["run"] for row in rows}) == 2
    hashes = {json.loads(path.read_text())["provenance"]["kb_hash"] for path in done}
    assert (
        len(hashes) == 1 and len(list((tmp_path / "outputs" / "kb").glob("*/manifest.json"))) == 1
    )
    stamps = [path.stat().st_mtime_ns for path in done]
    monkeypatch.setattr(sys, "argv", [*arguments[: -len(launcher)]])  # again, in this process
    cli.main()
    assert [path.stat().st_mtime_ns for path in done] == stamps


@pytest.mark.parametrize("launcher", ["joblib", "submitit_local", "submitit_slurm"])
def test_launchers_compose_with_the_main_job(launcher: str) -> None:
    register()
    overrides = [f"hydra/launcher={launcher}", "trainer.num_nodes=2"]
    if launcher == "submitit_slurm":
        overrides += ["hydra.launcher.gpus_per_node=1", "hydra.launcher.timeout_min=240"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        composed = compose("run", overrides, return_hydra_config=True)
    assert launcher.partition("_")[0] in composed.hydra.launcher._target_.lower()
    assert composed.trainer.num_nodes == 2
    if launcher == "submitit_slurm":
        assert composed.hydra.launcher.gpus_per_node == 1


def test_an_experiment_leaves_what_a_report_needs_and_resumes(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    arguments = ["redi", "experiments", "kb_size", *small(tiny_folder), "noise=shared"]
    arguments += ["noise.bank_size=1", "kb.size=2,3,4", "retrieval.estimator=paper"]
    arguments += ["run_dir=all"]
    monkeypatch.setattr(sys, "argv", arguments)
    cli.main()
    root = tmp_path / "all" / "kb_size"
    files = {path.name for path in root.iterdir() if path.is_file()}
    assert files >= {"summary.md", "summary.csv", "points.parquet", "pareto.png", "curves.png"}
    done = sorted(root.glob("*/results.json"))
    assert len(done) == 3 and not list(root.glob("*/pareto.png"))
    assert "| kb_size | 3 |" in (tmp_path / "all" / "times.md").read_text()
    assert "3 finished runs" in (root / "summary.md").read_text()
    stamps = [path.stat().st_mtime_ns for path in done]
    (root / "summary.md").unlink()
    monkeypatch.setattr(sys, "argv", arguments)
    cli.main()
    assert [path.stat().st_mtime_ns for path in done] == stamps
    assert (root / "summary.md").is_file()
