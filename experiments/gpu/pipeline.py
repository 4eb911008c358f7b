"""A pipeline plain and with ReDi: its speed, its memory, and ways to run its network."""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any

import torch
from diffusers import PNDMScheduler, StableDiffusionPipeline

import redi
from experiments.full_size.run import build
from experiments.gpu.terms import DEVICE, GPU, PROMPTS, Row, Size, seconds
from redi.models.network import prepare
from redi.verbs.assemble import EMBEDDED_MODEL


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

        own, found = self.pipe.unet.dtype, dict[str, float]()
        half, last, compiled = torch.bfloat16, "channels last", "compiled"
        for dtype, *how in (
            (own,),
            (half,),
            (half, last),
            (own, last),
            (own, last, compiled),
        ):
            self.pipe.to(dtype)
            prepare(self.pipe.unet, last in how, compiled in how)
            found[", ".join([str(dtype).removeprefix("torch."), *how])] = run()
        return Row(", ".join(f"{name} {spent:.2f} s" for name, spent in found.items()))

    def _reset(self) -> None:
        if GPU:
            torch.cuda.reset_peak_memory_stats()

    def _peak(self) -> int:
        return torch.cuda.max_memory_allocated() if GPU else 0
