"""Commands of redi as processes of their own: the main job, and a KB made in parts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import redi
from experiments.gpu.terms import GPU, Row, Size


class Missed(Exception):
    """A check that could not be made."""


def cli(folder: Path, arguments: list[str], gpu: bool = True) -> subprocess.Popen[str]:
    """Start a redi command."""
    here = str(Path(redi.__file__).resolve().parents[1])
    paths = [here, *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    if not gpu:
        environment["CUDA_VISIBLE_DEVICES"] = ""
    return subprocess.Popen(
        [sys.executable, "-m", "redi.cli", *arguments],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def ended(process: subprocess.Popen[str]) -> str:
    """Wait for a command; a failure is told by its last line."""
    output, _ = process.communicate(timeout=900)
    if process.returncode:
        raise Missed(output.strip().splitlines()[-1] if output.strip() else "no output")
    return output


class Commands:
    """Commands that run beside each other."""

    def __init__(self, size: Size, folder: Path) -> None:
        self.folder, count = folder, size.trajectories
        short = ["kb.shard_size=4", "kb.key_step=4", "sampling.steps=20", "model.batch_size=4"]
        job = [
            *short,
            *("kb.size=8", f"data.num_queries={size.queries}", "baselines=[plain,jump]"),
            *("metrics.hooks=[cost,fidelity]", "report.sheet_rows=0", "logger=none"),
        ]
        self.jobs = {
            name: cli(folder, [*job, f"run_dir={name}", f"kb.dir={name}-kb"], name == "gpu")
            for name in (("gpu", "cpu") if GPU else ("cpu",))
        }
        half = count // 2
        self.parts = {
            name: cli(
                folder,
                ["kb", "build", *short, f"kb.dir={name}", f"kb.first={first}", f"kb.size={rows}"],
            )
            for name, first, rows in (
                *(("whole", 0, count), ("first", 0, half)),
                ("second", half, count - half),
            )
        }

    def main_job(self) -> Row:
        """The main job here and without a GPU: equal calls, equal scores within a tolerance."""
        for process in self.jobs.values():
            ended(process)
        if not GPU:
            return Row("the job has run; no GPU to compare with")
        points = {
            name: {
                point["entry"]: point
                for point in json.loads((self.folder / name / "results.json").read_text())["points"]
            }
            for name in self.jobs
        }
        calls = all(points["cpu"][e]["calls"] == p["calls"] for e, p in points["gpu"].items())
        worst = max(
            abs(point["psnr"] - points["cpu"][entry]["psnr"])
            for entry, point in points["gpu"].items()
            if "psnr" in point
        )
        return Row(
            f"calls {'equal' if calls else 'DIFFER'}, PSNR of every method within {worst:.3f} dB",
            "equal calls, 0.5 dB",
            calls and worst <= 0.5,
        )

    def knowledge_base(self) -> Row:
        """One process makes the KB that two make in parts and merge, file by file."""
        for process in self.parts.values():
            ended(process)
        ended(cli(self.folder, ["kb", "merge", "merged", "first", "second"]))
        hashes = [
            {
                name: file["sha256"]
                for journal in sorted((self.folder / kb / "journal").glob("*.json"))
                for name, file in json.loads(journal.read_text())["files"].items()
            }
            for kb in ("whole", "merged")
        ]
        same = sum(hashes[1].get(name) == digest for name, digest in hashes[0].items())
        equal = len(hashes[0]) == len(hashes[1]) == same > 0
        return Row(f"{same} of {len(hashes[0])} files are equal", "all, bit for bit", equal)
