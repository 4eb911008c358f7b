"""Sweeps on several processes: each point once, one summary, shared knowledge bases."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from redi import cli


@pytest.mark.parametrize(
    "launcher",
    [
        ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"],
        ["hydra/launcher=submitit_local", "hydra.launcher.timeout_min=10"],
    ],
    ids=["joblib", "submitit"],
)
def test_a_sweep_on_other_processes_resumes(
    launcher: list[str], tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    arguments = [
        "redi", "-m", "model=local", f"model.path={tiny_folder}", "model.batch_size=4",
        "sampling.steps=8", "sampling.guidance_scale=2.5", "kb.size=4", "kb.shard_size=4",
        "kb.key_step=2", "data.num_queries=4", "metrics.hooks=[cost,fidelity]",
        "metrics.resamples=50", "baselines=[plain]", "report.sheet_rows=0",
        "retrieval.value_step=4,6", "run_dir=sweep", *launcher,
    ]  # fmt: skip
    monkeypatch.setattr(sys, "argv", arguments)
    cli.main()
    done = sorted((tmp_path / "sweep").glob("*/results.json"))
    assert len(done) == 2
    assert len(json.loads((tmp_path / "sweep" / "summary.json").read_text())["runs"]) == 2
    hashes = {json.loads(path.read_text())["provenance"]["kb_hash"] for path in done}
    assert (
        len(hashes) == 1 and len(list((tmp_path / "outputs" / "kb").glob("*/manifest.json"))) == 1
    )
    stamps = [path.stat().st_mtime_ns for path in done]
    monkeypatch.setattr(sys, "argv", [*arguments[: -len(launcher)]])  # again, in this process
    cli.main()
    assert [path.stat().st_mtime_ns for path in done] == stamps
