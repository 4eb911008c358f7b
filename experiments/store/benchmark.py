"""What the store and retrieval cost at the shapes of Stable Diffusion: ratios, a table, a plot.

    python experiments/store/benchmark.py [sizes=1000,10000,100000] [folder=DIR] [kb=DIR]

Synthetic keys (see synthetic.py) are made in place, in half precision: 3.3 GB for 100,000. With
`kb=DIR`, a knowledge base built by redi, recall is measured on its real keys as well. Ratios
compare what was timed in turns in the same process; times are medians.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from synthetic import SHAPE, WIDTH, keys

from redi.errors import UsageError
from redi.files import require_space, write_durably, write_json
from redi.knowledge_base import Column, Entry, KnowledgeBase, Manifest, Writer
from redi.retrieval.finders import Components, Finder, Partial, build_partial, project
from redi.retrieval.indexed import IndexedSearch
from redi.retrieval.keys import StoredKeys
from redi.retrieval.opening import open_search, scans

HERE = Path(__file__).resolve().parent
SHARD, QUERIES, BATCH = 250, 32, 16
KINDS = ("pca", "ivf", "sq", "pq", "hnsw")
KEY = ("step_0010", "latents")


def median(action: Callable[[], object], repeats: int) -> float:
    """Median seconds of a call, after one that is not counted."""
    action()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def entries(shard: int, size: int) -> list[Entry]:
    return [Entry(i, f"prompt {i}", 0) for i in range(shard * size, (shard + 1) * size)]


def write_throughput(folder: Path) -> dict[str, float]:
    """Writer against one file of the same bytes, written on and synced shard by shard, in turns."""
    columns = (
        Column(*KEY, SHAPE, "float16"),
        Column(KEY[0], "prediction", SHAPE, "float16"),
        Column("step_0030", "latents", SHAPE, "float32"),
    )
    manifest = Manifest({}, columns, SHARD)
    writer = Writer(folder / "written", manifest, {})
    ours = raw = 0.0
    with open(folder / "raw", "wb") as file:
        for shard in range(4):
            rows = keys(shard * SHARD, SHARD)
            arrays = {(c.group, c.name): rows for c in columns}
            data = b"".join(rows.astype(c.dtype).tobytes() for c in columns)
            start = time.perf_counter()
            writer.write(shard, arrays, entries(shard, SHARD))
            ours += time.perf_counter() - start
            start = time.perf_counter()
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            raw += time.perf_counter() - start
    total = 4 * SHARD * manifest.row_bytes / 1e6
    return {"MB/s": total / ours, "raw MB/s": total / raw, "ratio": raw / ours}


def make_keys(folder: Path, count: int) -> Path:
    """A knowledge base of synthetic keys in half precision; goes on where it was interrupted."""
    manifest = Manifest({"keys": "synthetic"}, (Column(*KEY, SHAPE, "float16"),), SHARD)
    writer, started = Writer(folder / "keys", manifest, {}), time.perf_counter()
    for shard in writer.missing(count):
        writer.write(shard, {KEY: keys(shard * SHARD, SHARD)}, entries(shard, SHARD))
    print(f"{count} synthetic keys are there ({time.perf_counter() - started:.0f} s)", flush=True)
    return folder / "keys"


def read_ratio(kb: KnowledgeBase) -> dict[str, float]:
    """`gather` of 5 neighbours for 16 queries against raw memory-map reads of the same rows."""
    maps = []
    for journal in kb.journals:
        path = kb.root / str(journal.name(KEY[0]))
        offset = 8 + int.from_bytes(path.read_bytes()[:8], "little")
        maps.append(np.memmap(path, np.float16, "r", offset, (SHARD, *SHAPE)))
    rng, ours, raw = np.random.default_rng(0), [], []
    for _ in range(40):
        rows = torch.from_numpy(rng.integers(len(kb), size=(BATCH, 5)))
        start = time.perf_counter()
        kb.gather(*KEY, rows)
        ours.append(time.perf_counter() - start)
        rows = torch.from_numpy(rng.integers(len(kb), size=(BATCH, 5)))
        start = time.perf_counter()
        stacked = np.stack([maps[r // SHARD][r % SHARD] for r in rows.flatten().tolist()])
        torch.from_numpy(stacked).float()
        raw.append(time.perf_counter() - start)
    mine, theirs = float(np.median(ours)), float(np.median(raw))
    return {"ms": 1e3 * mine, "raw ms": 1e3 * theirs, "ratio": mine / theirs}


def retrieval(kb: KnowledgeBase, key: tuple[str, str], queries: torch.Tensor) -> dict[str, Any]:
    """Every kind against the exact scan: recall, seconds per query alone and in batches."""
    partitions, count = np.zeros(len(kb), int), min(10, len(kb))
    stored = StoredKeys(kb, *key)
    exact = IndexedSearch(stored, partitions, scans(stored, partitions))
    start = time.perf_counter()
    truth = exact.search(queries, [0] * len(queries), count).rows
    together = (time.perf_counter() - start) / len(queries)
    start = time.perf_counter()
    exact.search(queries[:1], [0], count)
    alone = time.perf_counter() - start
    found: dict[str, Any] = {"scan": {"alone": alone, "batch": together, "r1": 1.0, "r10": 1.0}}
    start = time.perf_counter()
    projection, coordinates = project(stored, np.arange(len(kb)))
    projected = time.perf_counter() - start
    for kind in ("auto", *KINDS):
        start = time.perf_counter()
        if kind == "auto":
            search = open_search(kb, *key, partitions, say=lambda _: None)
        else:
            finder: Finder = Components(projection, coordinates)
            if kind != "pca":
                finder = Partial(projection, build_partial(kind, coordinates.numpy()))
            search = IndexedSearch(stored, partitions, {0: finder})
        built = time.perf_counter() - start + (0 if kind == "auto" else projected)
        rows = search.search(queries, [0] * len(queries), count).rows
        pairs = list(zip(truth.tolist(), rows.tolist(), strict=True))
        turn = iter(range(10**6))

        def one(search: Any = search, turn: Any = turn) -> None:
            i = next(turn) % len(queries)
            search.search(queries[i : i + 1], [0], count)

        def many(search: Any = search) -> None:
            search.search(queries[:BATCH], [0] * BATCH, count)

        found[kind] = {
            "alone": median(one, 31),
            "batch": median(many, 7) / BATCH,
            "r1": float(np.mean([a[0] == b[0] for a, b in pairs])),
            "r10": float(np.mean([len(set(a) & set(b)) / count for a, b in pairs])),
            "build": built,
        }
    return found


def network_call() -> dict[str, float]:
    """Seconds of one call of the embedded model's network, per sample."""
    from redi.models.text_to_image import TextToImageModel, load_pipeline
    from redi.tasks.assemble import EMBEDDED_MODEL

    pipeline = load_pipeline(EMBEDDED_MODEL, torch.float32, torch.device("cpu"))
    seconds = {}
    for name, size in (("alone", 1), ("batch", BATCH)):
        model = TextToImageModel(pipeline, 7.5, "", size)
        predict = model.predictor(model.encode(["a red fox"] * size))
        latents = torch.randn(size, *model.latent_shape)

        def call(latents: torch.Tensor = latents, predict: Any = predict) -> None:
            predict(latents, torch.tensor(500))

        seconds[name] = median(call, 3) / size
    return seconds


def resident(root: Path, count: int) -> dict[str, float]:
    """Peak memory of a fresh process that opens `auto` retrieval and asks 256 queries, in MB."""
    command = [sys.executable, __file__, "resident", str(root), str(count)]
    before, after = subprocess.run(
        command, capture_output=True, text=True, check=True
    ).stdout.split()
    return {"imports": float(before), "peak": float(after)}


def peak_mb() -> float:
    """Peak resident memory of this process (Linux)."""
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in x)
    return int(line.split()[1]) * 1024 / 1e6


def resident_child(root: Path, count: int) -> None:
    """Print the peak after the imports and after the queries."""
    print(peak_mb())
    kb = KnowledgeBase(root, count, hashes=False)
    search = open_search(kb, *KEY, np.zeros(count, int), say=lambda _: None)
    for first in range(0, 256, BATCH):
        queries = torch.from_numpy(kb.column(*KEY, first, first + BATCH).numpy() + 0.01)
        search.search(queries, [0] * BATCH, 5)
    print(peak_mb())


def bytes_per_trajectory() -> dict[str, float]:
    """kB of key, its prediction, one value and the final latents, against all 50 steps in half."""
    found = {"every step, half (as published)": 50 * WIDTH * 2 / 1e3}
    for name, key, value in (
        ("full / full", "float32", "float32"),
        ("half / half", "float16", "float16"),
        ("half / int8", "float16", "int8"),
    ):
        columns = [Column("k", "latents", SHAPE, key)] + [Column("v", "x", SHAPE, value)] * 3
        found[f"keys / values: {name}"] = sum(column.row_bytes for column in columns) / 1e3
    return found


def table(results: dict[str, Any]) -> str:
    """The results as Markdown."""
    w, call, lines = results["write"], results["network_call"], ["| what | reached | aim |"]
    lines += ["|---|---|---|"]
    lines += [
        f"| write throughput against raw | {w['ratio']:.2f} ({w['MB/s']:.0f} of "
        f"{w['raw MB/s']:.0f} MB/s) | at least 0.7 |"
    ]
    for size, r in results["sizes"].items():
        auto, scan = r["retrieval"]["auto"], r["retrieval"]["scan"]
        lines += [
            f"| {size}: read 5 x 16 against raw maps | {r['read']['ratio']:.2f}x | within 1.5x |",
            f"| {size}: auto against the exact scan, one query | "
            f"{scan['alone'] / auto['alone']:.0f}x faster | 50x at 100k |",
            f"| {size}: auto, recall@1 / recall@10 | {auto['r1']:.3f} / {auto['r10']:.3f} | "
            "0.99 / 0.95 |",
            f"| {size}: auto against one network call, alone / batch of 16 | "
            f"{100 * auto['alone'] / call['alone']:.1f}% / "
            f"{100 * auto['batch'] / call['batch']:.1f}% | below 2% |",
            f"| {size}: peak memory of retrieval (imports alone {r['memory']['imports']:.0f} MB) | "
            f"{r['memory']['peak']:.0f} MB | below 600 MB |",
        ]
    for name, kb in results["bytes"].items():
        ratio = results["bytes"]["every step, half (as published)"] / kb
        lines += [f"| kB per trajectory, {name} | {kb:.0f} ({ratio:.1f}x smaller) | |"]
    lines += ["", "| keys | kind | ms alone | ms in 16 | recall@1 | recall@10 | build s |"]
    lines += ["|---|---|---|---|---|---|---|"]
    groups = {**results["sizes"], **results["real"]}
    for size, r in groups.items():
        for kind, row in r["retrieval"].items():
            lines.append(
                f"| {size} | {kind} | {1e3 * row['alone']:.2f} | {1e3 * row['batch']:.2f} | "
                f"{row['r1']:.3f} | {row['r10']:.3f} | {row.get('build', 0):.1f} |"
            )
    return "\n".join(lines) + "\n"


def plot(results: dict[str, Any], path: Path) -> None:
    """Time per query, recall, memory and reads against the number of keys."""
    sizes = [int(size) for size in results["sizes"]]
    every = list(results["sizes"].values())
    figure, axes = plt.subplots(1, 4, figsize=(16, 3.8), layout="constrained")
    for kind in ("scan", *KINDS):
        rows = [r["retrieval"][kind] for r in every]
        axes[0].loglog(sizes, [1e3 * row["alone"] for row in rows], "o-", label=kind)
        axes[1].semilogx(sizes, [row["r10"] for row in rows], "o-", label=kind)
    axes[0].axhline(20 * results["network_call"]["alone"], color="0.6", ls="--")  # 2% in ms
    axes[0].set(title="one query (dashed: 2% of a call)", ylabel="ms")
    axes[1].set(title="recall@10")
    axes[2].semilogx(sizes, [r["memory"]["peak"] for r in every], "o-")
    axes[2].set(title="peak memory of auto", ylabel="MB", ylim=(0, None))
    axes[3].semilogx(sizes, [r["read"]["ratio"] for r in every], "o-")
    axes[3].set(title="5 x 16 rows against raw maps", ylabel="ratio", ylim=(0, None))
    axes[0].legend(fontsize=8)
    for axis in axes:
        axis.set_xlabel("keys")
    write_durably(path, lambda temporary: figure.savefig(temporary, format="png", dpi=110))


def real_keys(root: Path) -> dict[str, Any]:
    """Recall on a KB's own keys: its last quarter asks, kept out of nothing but the ranking."""
    kb = KnowledgeBase(root, hashes=False)
    asked = len(kb) // 4
    part = KnowledgeBase(root, len(kb) - asked, hashes=False)
    key = (f"step_{kb.manifest.identity['key_step']:04d}", "latents")
    queries = kb.column(*key, len(part), len(kb))[: 2 * QUERIES]
    return {f"{len(part)} real": {"retrieval": retrieval(part, key, queries)}}


def main(arguments: list[str]) -> None:
    """Measure, print, and leave benchmark.json, table.md and growth.png beside this file."""
    given = dict(argument.split("=", 1) for argument in arguments)
    sizes = [int(size) for size in given.get("sizes", "1000,10000,100000").split(",")]
    queries = torch.from_numpy(keys(0, QUERIES, seed=1))
    results: dict[str, Any] = {"sizes": {}, "real": {}, "bytes": bytes_per_trajectory()}
    with tempfile.TemporaryDirectory(dir=given.get("folder")) as temporary:
        folder = Path(temporary)
        require_space(folder, int(1.1 * (max(sizes) * WIDTH * 2 + 2e8)))
        results["write"] = write_throughput(folder)
        results["network_call"] = network_call()
        if "kb" in given:
            results["real"] = real_keys(Path(given["kb"]))
        for size in sizes:
            root = make_keys(folder, size)
            kb = KnowledgeBase(root, size, hashes=False)
            found = {"read": read_ratio(kb), "retrieval": retrieval(kb, KEY, queries)}
            results["sizes"][str(size)] = {**found, "memory": resident(root, size)}
            write_json(HERE / "benchmark.json", results)  # what is measured stays measured
            write_durably(HERE / "table.md", lambda t: t.write_text(table(results)))
            plot(results, HERE / "growth.png")
    print(table(results))


if __name__ == "__main__":
    torch.set_num_threads(1)
    try:
        if sys.argv[1:2] == ["resident"]:
            resident_child(Path(sys.argv[2]), int(sys.argv[3]))
        else:
            main(sys.argv[1:])
    except UsageError as error:
        sys.exit(f"benchmark: {error}")
