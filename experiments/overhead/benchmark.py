"""What redi costs on a pipeline: never hitting and always hitting, against the plain pipeline.

    python experiments/overhead/benchmark.py [--model FOLDER] [--steps 20] [--repeats 5]

records a small KB with the pipeline, then times three ways in turn: plain, enabled with a distance
that nothing reaches, and enabled with every sample hitting. It prints the median CPU time of each
and their ratios to the plain pipeline, beside the ratio of the network calls, and writes them to
`table.md`.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline

import redi
from redi.verbs.assemble import EMBEDDED_MODEL

PROMPTS = ["a large red apple", "a small fox", "a blue car", "a green tree"]


def seconds(pipe: Any, kb: Any, call: dict[str, Any]) -> float:
    """CPU seconds of one call on one prompt, which other work on the machine does not lengthen."""
    start = time.process_time()
    pipe("a small red car", generator=redi.generators(kb), **call)
    return time.process_time() - start


def main() -> None:
    """Time, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=str(EMBEDDED_MODEL), help="folder of a pipeline")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    steps, key, value = options.steps, options.steps // 5, 7 * options.steps // 10
    pipe = StableDiffusionPipeline.from_pretrained(options.model, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    call = {"num_inference_steps": steps, "output_type": "latent"}
    taken: dict[str, list[float]] = {"plain": [], "never hits": [], "always hits": []}
    with tempfile.TemporaryDirectory() as folder:
        kb = redi.record(pipe, PROMPTS, f"{folder}/kb", key_step=key, value_steps=[value], **call)
        for _ in range(options.repeats):  # in turn, so that a slow minute slows all three
            taken["plain"].append(seconds(pipe, kb, call))
            for way, distance in (("never hits", -1.0), ("always hits", None)):
                with redi.enable(pipe, kb, value_step=value, max_distance=distance):
                    seconds(pipe, kb, call)  # the first call reads the keys
                    taken[way].append(seconds(pipe, kb, call))
    plain = statistics.median(taken["plain"])
    calls = {"plain": 1.0, "never hits": 1.0, "always hits": 1 - (value - key) / steps}
    lines = [
        "| way | CPU seconds (median) | ratio | ratio of network calls |",
        "| --- | ---: | ---: | ---: |",
    ]
    for way, series in taken.items():
        middle = statistics.median(series)
        lines.append(f"| {way} | {middle:.3f} | {middle / plain:.3f} | {calls[way]:.3f} |")
    table = "\n".join(lines) + "\n"
    print(table, end="")
    note = (
        f"# Overhead of an enabled pipeline\n\n{steps} steps, k = {key}, v = {value}, one prompt, "
        f"{options.repeats} repeats, CPU. Made by `python experiments/overhead/benchmark.py`.\n\n"
    )
    Path(__file__).with_name("table.md").write_text(note + table)


if __name__ == "__main__":
    main()
