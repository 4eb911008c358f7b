"""Cost of one correction beside one network call: python experiments/corrected/overhead.py

Prints, and writes to overhead.md, the milliseconds of a correction with 1,024 trajectories of one
noise: for the embedded model's latents, beside its measured network call, and for those of Stable
Diffusion.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from redi.embedded.captions import prompts
from redi.methods.corrected.corrector import StepCorrection
from redi.methods.corrected.features import FEATURES, Features
from redi.methods.corrected.kernel import Choice, KernelRidge
from redi.methods.corrected.local import PatchRidge
from redi.methods.few.bases import Visit
from redi.models.text_to_image import TextToImageModel, load_pipeline
from redi.report.blocks import Cell, Grid
from redi.report.markdown import markdown_grid
from redi.verbs.assemble import EMBEDDED_MODEL

BATCH, TRAJECTORIES, REPEATS = 16, 1024, 15


def correction(shape: tuple[int, int, int], parts: str) -> StepCorrection:
    """A correction of the given size; its numbers do not matter for its cost."""
    channels, size = shape[0], shape[0] * shape[1] * shape[2]
    width = size * len(FEATURES)
    kernel = KernelRidge(
        torch.zeros(width),
        torch.randn(TRAJECTORIES, width),
        torch.randn(TRAJECTORIES, size),
        Choice("gaussian", 1.0, 1e-2),
        width**0.5,
    )
    local = PatchRidge(
        torch.randn(channels, channels * len(FEATURES), 3, 3), torch.zeros(channels), 3, 1e-3
    )
    return StepCorrection(
        Features(FEATURES, (1.0,) * len(FEATURES)),
        local if parts != "kernel" else None,
        {0: kernel} if parts != "local" else {},
        {},
    )


def milliseconds(run: Callable[[], object]) -> float:
    """Median time of a call after one warm-up."""
    run()
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times)


def main() -> None:
    pipeline = load_pipeline(EMBEDDED_MODEL, torch.float32, torch.device("cpu"))
    model = TextToImageModel(pipeline, guidance_scale=4.0, batch_size=BATCH)
    predict = model.predictor(model.encode(prompts("query", BATCH)[1]))
    latents = torch.randn(BATCH, *model.latent_shape)
    call = milliseconds(lambda: predict(latents, torch.tensor(500)))
    rows: list[list[Cell]] = []
    for shape in (model.latent_shape, (4, 64, 64)):
        states = [Visit(3.0 - i, *torch.randn(3, BATCH, *shape).double()) for i in range(3)]
        for parts in ("local", "kernel", "both"):
            step = correction(shape, parts)
            spent = milliseconds(lambda step=step, states=states: step(states, [0] * BATCH))
            known = shape == model.latent_shape
            share = f"{100 * spent / call:.1f}%" if known else "-"
            cells = ["x".join(map(str, shape)), parts, f"{spent:.1f}", share]
            rows.append([[(cell, False)] for cell in cells])
    headings = ["latents", "part", "ms per step", "share of a network call"]
    told = (
        f"One correction at batch {BATCH} with {TRAJECTORIES} trajectories of one noise; a guided "
        f"network call of the embedded model takes {call:.0f} ms there "
        f"({torch.get_num_threads()} threads).\n"
    )
    text = f"{told}\n{markdown_grid(Grid(headings, 2, rows))}\n"
    Path(__file__).with_suffix(".md").write_text(text)
    print(text, end="")


if __name__ == "__main__":
    main()
