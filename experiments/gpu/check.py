"""What a GPU must show: equality with the CPU, speed, memory, retrieval, training.

    python -m experiments.gpu.check [--size full|quick|small] [--only WORD] [--out FOLDER]

`full` takes at most 8 minutes on a data-centre GPU, `quick` about 90 seconds (one repeat, no
torch.compile), `small` runs anywhere, on the CPU too (the embedded model in the place of Stable
Diffusion 1.5). Each check prints one line as soon as it is done; one that fails does not stop the
others. `FOLDER/SIZE.md` gets the table; the exit code is the number of checks that missed their
aim.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline
from transformers import CLIPTokenizer

import redi
from experiments.full_size.run import build
from redi.data.noise import NoisePolicy
from redi.embedded.diffusion import TrainDiffusion
from redi.embedded.stage_config import StageConfig
from redi.embedded.stream import Painters
from redi.embedded.training import fit
from redi.methods import Query, Setup
from redi.methods.plain import Full
from redi.methods.solve import solve
from redi.models.text_to_image import TextToImageModel, load_pipeline
from redi.retrieval.indexed import IndexedSearch
from redi.retrieval.keys import ArrayKeys
from redi.retrieval.opening import build_index, finders_from
from redi.samplers import build_sampler
from redi.verbs.assemble import EMBEDDED_MODEL
from redi.verbs.provenance import versions
from redi.verbs.quiet import quiet_loading

GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if GPU else "cpu")
PROMPTS = ["a red fox in the snow", "a blue car", "a green tree by a lake", "a small apple"]


@dataclass(frozen=True)
class Size:
    """How much is done."""

    #: Stable Diffusion 1.5 with random weights at 512 pixels in float16; else the embedded model
    sd15: bool
    repeats: int
    keys: int
    key_width: int
    train_steps: int
    train_pool: int
    #: trajectories of the KB comparison, queries of the main job
    trajectories: int
    queries: int
    options: bool


SIZES = {
    "full": Size(True, 3, 100_000, 16_384, 400, 4096, 64, 64, True),
    "quick": Size(True, 1, 100_000, 16_384, 60, 512, 16, 16, False),
    "small": Size(False, 1, 2_000, 1_024, 4, 64, 8, 4, True),
}


@dataclass(frozen=True)
class Row:
    """What a check measured, and whether it reached its aim; None: it has none here."""

    measured: str
    aim: str = ""
    reached: bool | None = None


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


def latents(size: Size, folder: Path) -> Row:
    """Final latents of full sampling by the embedded model, here and on the CPU."""
    found = []
    for device in (DEVICE, torch.device("cpu")):
        model = TextToImageModel(load_pipeline(EMBEDDED_MODEL, torch.float32, device), 7.5, "", 4)
        sampler = build_sampler("ddim", model.scheduler_config, 20, "trailing")
        noise = NoisePolicy().draw([0, 0, 0, 0], model.latent_shape).to(device)
        query = Query(noise, (0,) * 4, tuple(range(4)))
        method = Full().bind(Setup(sampler, device=device))
        found.append(solve(method, query, model, model.encode(PROMPTS)).latents.cpu())
    worst = float(
        ((found[0] - found[1]).flatten(1).norm(dim=1) / found[1].flatten(1).norm(dim=1)).max()
    )
    return Row(f"relative difference at most {worst:.1e} after 20 steps", "1e-2", worst <= 1e-2)


def seconds(work: Callable[[], Any]) -> float:
    """Wall-clock seconds of some work and of all that it queued on the device."""
    if GPU:
        torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    if GPU:
        torch.cuda.synchronize()
    return time.perf_counter() - start


class Speed:
    """One pipeline, plain and with ReDi: 50 PNDM steps, guidance 7.5, four prompts a call."""

    def __init__(self, size: Size, folder: Path) -> None:
        torch.manual_seed(0)
        if size.sd15:
            with DEVICE:  # where random weights are quick to make
                self.pipe = build(torch.float16 if GPU else torch.float32)
            self.pipe.scheduler = PNDMScheduler.from_config(self.pipe.scheduler.config)
        else:
            self.pipe = StableDiffusionPipeline.from_pretrained(EMBEDDED_MODEL).to(DEVICE)
            self.pipe.scheduler = PNDMScheduler.from_config(
                self.pipe.scheduler.config, skip_prk_steps=True
            )
            self.pipe.set_progress_bar_config(disable=True)
        self.size, steps = size, 50 if size.sd15 else 10
        self.key, self.value, self.call = steps // 5, 7 * steps // 10, dict[str, Any]()
        self.call |= {"num_inference_steps": steps, "guidance_scale": 7.5, "output_type": "latent"}
        if size.sd15:
            self.call |= {"height": 512, "width": 512}
        stored = {"key_step": self.key, "value_steps": [self.value]}
        start = time.perf_counter()
        self.kb = redi.record(
            self.pipe, PROMPTS, folder / "kb", batch_size=4, **stored, **self.call
        )
        self.recorded = time.perf_counter() - start

    def run(self) -> None:
        self.pipe(PROMPTS, generator=redi.generators(self.kb, ids=[0] * 4), **self.call)

    def ratio(self) -> Row:
        """Wall-clock speedup over the speedup in network calls."""
        plain, hit = [], []
        self._reset()
        for _ in range(self.size.repeats):  # in turn
            plain.append(seconds(self.run))
            self.plain_memory = self._peak()
            with redi.enable(self.pipe, self.kb, key_step=self.key, value_step=self.value):
                hit.append(seconds(self.run))
        told = redi.summary(self.pipe)
        self.memory = self._peak()
        calls = told.network_calls / told.samples
        saved = told.network_calls_saved / told.samples
        by_calls = (calls + saved) / calls
        wall = statistics.median(plain) / statistics.median(hit)
        return Row(
            f"{statistics.median(plain):.2f} s plain, {statistics.median(hit):.2f} s with ReDi: "
            f"{wall:.3f}x of {by_calls:.3f}x by calls, ratio {wall / by_calls:.3f}; "
            f"retrieval {1000 * told.retrieval_seconds / told.samples:.1f} ms a sample; "
            f"recording {self.recorded:.1f} s",
            "ratio 0.97" if self.size.sd15 and GPU else "",
            wall / by_calls >= 0.97 if self.size.sd15 and GPU else None,
        )

    def peak(self) -> Row:
        """Memory of the calls of `ratio`."""
        if not GPU:
            return Row("no GPU")
        more = self.memory / self.plain_memory - 1
        return Row(
            f"{self.plain_memory / 2**30:.2f} GiB plain, {self.memory / 2**30:.2f} GiB with ReDi",
            "1% more",
            more <= 0.01,
        )

    def options(self) -> Row:
        """Seconds of ten steps with each way to run the network."""
        if not self.size.options:
            return Row("not measured at this size")
        call = {**self.call, "num_inference_steps": 10 if self.size.sd15 else 4}

        def run() -> float:
            work = lambda: self.pipe(PROMPTS, **call)  # noqa: E731
            seconds(work)
            return min(seconds(work) for _ in range(self.size.repeats))

        found = {str(self.pipe.unet.dtype).removeprefix("torch."): run()}
        self.pipe.unet.to(memory_format=torch.channels_last)
        found["channels last"] = run()
        if GPU:
            self.pipe.to(torch.bfloat16)
            found["bfloat16, channels last"] = run()
            self.pipe.to(torch.float16)
            self.pipe.unet.compile()
            found["float16, channels last, compiled"] = run()
        return Row(", ".join(f"{name} {spent:.2f} s" for name, spent in found.items()))

    def _reset(self) -> None:
        if GPU:
            torch.cuda.reset_peak_memory_stats()

    def _peak(self) -> int:
        return torch.cuda.max_memory_allocated() if GPU else 0


def retrieval(size: Size, folder: Path) -> Row:
    """Nearest of many keys through principal components, against every distance."""
    torch.manual_seed(0)
    factors = torch.randn(64, size.key_width, device=DEVICE)  # keys vary mostly in few directions
    array = np.empty((size.keys, size.key_width), dtype="f4")
    for first in range(0, size.keys, 10_000):
        count = min(10_000, size.keys - first)
        near = torch.randn(count, 64, device=DEVICE) @ factors
        near += 2 * torch.randn(count, size.key_width, device=DEVICE)
        array[first : first + count] = near.cpu().numpy()
    partitions, keys = np.zeros(size.keys, dtype=np.int64), ArrayKeys(array)
    queries = torch.from_numpy(array[:: size.keys // 64][:64])
    queries = queries + 0.5 * torch.randn_like(queries) * queries.std()
    start = time.perf_counter()
    search = IndexedSearch(
        keys, partitions, finders_from("pca", build_index(keys, partitions, "pca"))
    )
    built = time.perf_counter() - start
    search.search(queries[:1], [0], 1)
    spent = []
    for query in queries:
        start = time.perf_counter()
        search.search(query[None], [0], 1)
        spent.append(time.perf_counter() - start)
    found = search.search(queries, [0] * len(queries), 1).rows[:, 0]
    best = torch.full((len(queries),), torch.inf, dtype=torch.float64)
    exact, asked = torch.zeros(len(queries), dtype=torch.int64), queries.to(DEVICE).double()
    for first in range(0, size.keys, 4_000):
        block = torch.from_numpy(array[first : first + 4_000]).to(DEVICE).double()
        gap, row = torch.cdist(asked, block).min(1)
        nearer = gap.cpu() < best
        best[nearer], exact[nearer] = gap.cpu()[nearer], row.cpu()[nearer] + first
    right = int((found == exact).sum())
    return Row(
        f"{1000 * statistics.median(spent):.2f} ms a query, {right} of {len(queries)} nearest "
        f"found, built in {built:.1f} s",
        "all found",
        right == len(queries),
    )


def training(size: Size, folder: Path) -> Row:
    """Throughput of the embedded diffusion recipe, after its first steps."""
    config = StageConfig(size.train_steps, 64, 6e-4, 10, 10, 0.01, size.train_pool, 1, 10**6)
    vae = AutoencoderKL.from_pretrained(EMBEDDED_MODEL / "vae")
    tokenizer = CLIPTokenizer.from_pretrained(EMBEDDED_MODEL / "tokenizer")
    task = TrainDiffusion(config, 0, tokenizer, vae).to(DEVICE)
    torch.backends.cudnn.benchmark = GPU
    rates: list[float] = []
    with Painters(min(8, os.cpu_count() or 1) if GPU else 0) as task.painters:
        fit(task, _NoCheckpoints(), folder, GPU, lambda step, loss, rate: rates.append(rate))
    return Row(f"{rates[-1]:.0f} samples/s in the last steps, {rates[0]:.0f} in the first")


class _NoCheckpoints:
    """What `fit` needs of `Checkpoints`, without files."""

    def load(self, *_: Any) -> int:
        return 0

    def save(self, *_: Any) -> None:
        return


def machine() -> str:
    """Device and versions that the numbers hold for."""
    device = torch.cuda.get_device_name() if GPU else f"CPU, {torch.get_num_threads()} threads"
    known = versions()
    named = {name: known[name] for name in ("python", "torch", "diffusers", "transformers")}
    return device + "; " + ", ".join(f"{name} {number}" for name, number in named.items())


def main() -> int:
    """Run every check; returns how many missed their aim."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="full" if GPU else "small")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    parser.add_argument("--only", help="checks whose name holds this word")
    options = parser.parse_args()
    size, missed = SIZES[options.size], 0
    quiet_loading()
    print(machine(), flush=True)
    lines = ["| check | measured | aim | seconds |", "| --- | --- | --- | ---: |"]
    made: dict[str, Any] = {}

    def once(kind: type, folder: Path) -> Any:
        if kind.__name__ not in made:
            made[kind.__name__] = kind(size, folder)
        return made[kind.__name__]

    checks: dict[str, Callable[[Path], Row]] = {
        # what is timed comes first and alone
        "speed by calls and by the clock": lambda f: once(Speed, f).ratio(),
        "peak memory": lambda f: once(Speed, f).peak(),
        "training": lambda f: training(size, f),
        "ways to run the network": lambda f: once(Speed, f).options(),
        f"nearest of {size.keys:,} keys": lambda f: retrieval(size, f),
        "main job, GPU and CPU": lambda f: once(Commands, f).main_job(),
        "KB of one process and of two": lambda f: once(Commands, f).knowledge_base(),
        "latents, GPU and CPU": lambda f: latents(size, f),
    }
    with tempfile.TemporaryDirectory() as name:
        for number, (told, check) in enumerate(checks.items()):
            if options.only and options.only not in told:
                continue
            folder, start = Path(name, str(number)), time.perf_counter()
            folder.mkdir()
            try:
                row = check(folder)
            except Exception as error:  # the others are still worth running
                first = (str(error).strip().splitlines() or [""])[0][:300]
                row = Row(f"{type(error).__name__}: {first}", reached=False)
            missed += row.reached is False
            spent = time.perf_counter() - start
            verdict = {True: "reached", False: "MISSED", None: ""}[row.reached]
            aim = f"{row.aim} ({verdict})" if row.aim else verdict
            print(f"{told}: {row.measured} [{aim or 'no aim'}] {spent:.1f} s", flush=True)
            lines.append(f"| {told} | {row.measured} | {aim} | {spent:.1f} |")
    options.out.mkdir(parents=True, exist_ok=True)
    command = f"python -m experiments.gpu.check --size {options.size}"
    text = f"# GPU check\n\n{machine()}. Made by `{command}`.\n\n" + "\n".join(lines) + "\n"
    (options.out / f"{options.size}.md").write_text(text)
    return missed


if __name__ == "__main__":
    raise SystemExit(main())
