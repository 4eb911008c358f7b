"""What the store and retrieval cost at the shapes of Stable Diffusion: ratios, a table, a plot.

    python experiments/store/benchmark.py [sizes=1000,10000,100000] [folder=DIR] [kb=DIR]

Synthetic keys (see synthetic.py) are made in place, in half precision: 3.3 GB for 100,000. They go
with the temporary folder that they are made in; with `folder=DIR` they stay there, and a second
call finds them made. With `kb=DIR`, a knowledge base built by redi, every kind is measured on its
real keys as well. What a ratio compares was timed in turns in the same process; times are medians.
"""

from __future__ import annotations

import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from crossover import crossover
from disk import KEY, SHARD, bytes_per_trajectory, make_keys, read_ratio, write_ratio
from growth import plot
from kinds import network_call, retrieval
from resident import resident
from synthetic import WIDTH, keys
from table import table

from redi.errors import UsageError
from redi.files import require_space, write_durably, write_json
from redi.knowledge_base import KnowledgeBase

HERE = Path(__file__).resolve().parent
OPTIONS = {"sizes": "1000,10000,100000", "folder": "", "kb": ""}
QUERIES = 64


def options(arguments: list[str]) -> tuple[list[int], str, str]:
    """Sizes, folder and KB of a command line."""
    given = dict(OPTIONS)
    for argument in arguments:
        name, _, value = argument.partition("=")
        if name not in OPTIONS:
            raise UsageError(f"option {name!r} is unknown: use {', '.join(OPTIONS)}")
        given[name] = value
    sizes = [int(size) if size.isdigit() else 0 for size in given["sizes"].split(",")]
    if any(size < SHARD or size % SHARD for size in sizes):
        raise UsageError(f"sizes={given['sizes']!r} has to list multiples of {SHARD}")
    return sorted(set(sizes)), given["folder"], given["kb"]


def measure(root: Path, size: int, calls: Any) -> dict[str, Any]:
    """Everything at one size."""
    say(f"{size:,} keys: making them")
    kb = make_keys(root, size)
    say("writing and reading")
    found: dict[str, Any] = {"write": write_ratio(kb, root), "read": read_ratio(kb)}
    say("retrieval")
    queries = torch.from_numpy(keys(0, QUERIES, seed=1))
    found["retrieval"] = retrieval(kb, KEY, queries, calls)
    found["memory"] = resident(kb.root, size)
    kept = (kb.root / "index").glob(f"*-{size}-*/*")  # a flat search keeps no index
    return {**found, "index MB": sum(path.stat().st_size for path in kept) / 1e6}


def real(root: Path, calls: Any) -> dict[str, Any]:
    """Every kind over the first three quarters of a KB's own keys; the last quarter asks."""
    kb = KnowledgeBase(root, hashes=False)
    part = KnowledgeBase(root, 3 * len(kb) // 4, hashes=False)
    key = (f"step_{kb.manifest.identity['key_step']:04d}", "latents")
    queries = kb.column(*key, len(part), len(kb))[:QUERIES]
    return {f"{len(part)} real": {"retrieval": retrieval(part, key, queries, calls)}}


def say(what: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {what}", flush=True)


def main(arguments: list[str]) -> None:
    """Measure, print, and leave benchmark.json, table.md and growth.png beside this file."""
    sizes, folder, kb = options(arguments)
    calls = network_call()
    results: dict[str, Any] = {
        "threads": torch.get_num_threads(),
        "sizes": {},
        "real": real(Path(kb), calls) if kb else {},
        "crossover": crossover(),
        "bytes": bytes_per_trajectory(),
    }
    with nullcontext(folder) if folder else tempfile.TemporaryDirectory() as chosen:
        root = Path(chosen)
        require_space(root, int(1.1 * (max(sizes) * WIDTH * 2 + 1e9)))
        for size in sizes:
            results["sizes"][str(size)] = measure(root, size, calls)
            write_json(HERE / "benchmark.json", results)  # what is measured stays measured
            write_durably(HERE / "table.md", lambda t: t.write_text(table(results)))
            if len(sizes) > 1:
                plot(results, HERE / "growth.png")
    print(table(results))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UsageError as error:
        sys.exit(f"benchmark: {error}")
