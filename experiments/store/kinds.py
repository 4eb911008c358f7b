"""Every kind of retrieval against the exact scan and against a call of the network."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import count
from typing import Any

import numpy as np
import torch
from disk import BATCH, NEIGHBOURS
from timing import in_turns

from redi.knowledge_base import KnowledgeBase
from redi.retrieval import ExactSearch, IndexedSearch, open_search
from redi.retrieval.finders import Components, Finder, Partial, build_partial, project
from redi.retrieval.keys import StoredKeys
from redi.retrieval.kinds import resolve
from redi.retrieval.opening import scans

KINDS = ("pca", "ivf", "sq", "pq", "hnsw")
RANKED = 10  # neighbours that recall is measured on
_IN_MEMORY = 1 << 28  # bytes of keys up to which the flat index is measured
_CODES = 10_000  # keys up to which product codes are measured: slow to train, least exact

Search = ExactSearch | IndexedSearch


def network_call() -> tuple[Callable[[], object], Callable[[], object]]:
    """One guided call of the embedded model's network, for one image and for a batch of 16."""
    from redi.models.text_to_image import TextToImageModel, load_pipeline
    from redi.verbs.assemble import EMBEDDED_MODEL

    pipeline = load_pipeline(EMBEDDED_MODEL, torch.float32, torch.device("cpu"))

    def call(size: int) -> Callable[[], object]:
        model = TextToImageModel(pipeline, 7.5, "", size)
        predict = model.predictor(model.encode(["a red fox"] * size))
        latents = torch.randn(size, *model.latent_shape)
        return lambda: predict(latents, torch.tensor(500))

    return call(1), call(BATCH)


def retrieval(
    kb: KnowledgeBase,
    key: tuple[str, str],
    queries: torch.Tensor,
    calls: tuple[Callable[[], object], Callable[[], object]],
) -> dict[str, dict[str, Any]]:
    """Per kind: seconds per query (5 neighbours) alone and in 16, recall on 10, seconds to build.

    `auto` is timed in turns with network calls; its row has their seconds per image as well.
    """
    partitions, keys = np.zeros(len(kb), int), StoredKeys(kb, *key)
    exact = IndexedSearch(keys, partitions, scans(keys, partitions))
    truth = exact.search(queries, [0] * len(queries), min(RANKED, len(kb))).rows
    (alone,) = in_turns(2, lambda: exact.search(queries[:1], [0], NEIGHBOURS))
    (batch,) = in_turns(1, lambda: exact.search(queries[:BATCH], [0] * BATCH, NEIGHBOURS))
    found = {"scan": {"alone": alone, "batch": batch / BATCH, "r1": 1.0, "r10": 1.0, "build": 0.0}}

    start = time.perf_counter()
    search: Search = open_search(kb, *key, partitions, rebuild=True, say=lambda _: None)
    built = time.perf_counter() - start
    one, many = _actions(search, queries)
    mine, its = in_turns(31, one, calls[0])
    ours, theirs = in_turns(9, many, calls[1])
    found["auto"] = {
        "picked": resolve("auto", len(kb), keys.width),
        **_row(search, queries, truth, (mine, ours), built),
        "call alone": its,
        "call batch": theirs / BATCH,
    }
    if 4 * keys.width * len(kb) <= _IN_MEMORY:
        flat = ExactSearch(kb.column(*key), partitions)
        found["flat"] = _timed(flat, queries, truth, 0.0)
    start = time.perf_counter()
    projection, coordinates = project(keys, np.arange(len(kb)))
    projected = time.perf_counter() - start
    for kind in KINDS:
        if kind == "pq" and len(kb) > _CODES:
            continue
        start = time.perf_counter()
        finder: Finder = Components(projection, coordinates)
        if kind != "pca":
            finder = Partial(projection, build_partial(kind, coordinates.numpy()))
        built = projected + time.perf_counter() - start
        search = IndexedSearch(keys, partitions, {0: finder})
        found[kind] = _timed(search, queries, truth, built)
    return found


def _actions(
    search: Search, queries: torch.Tensor
) -> tuple[Callable[[], object], Callable[[], object]]:
    turn = count()

    def one() -> None:
        i = next(turn) % len(queries)
        search.search(queries[i : i + 1], [0], NEIGHBOURS)

    def many() -> None:
        first = BATCH * (next(turn) % (len(queries) // BATCH))
        search.search(queries[first : first + BATCH], [0] * BATCH, NEIGHBOURS)

    return one, many


def _timed(search: Search, queries: torch.Tensor, truth: torch.Tensor, built: float) -> dict:
    one, many = _actions(search, queries)
    (alone,), (batch,) = in_turns(31, one), in_turns(7, many)
    return _row(search, queries, truth, (alone, batch), built)


def _row(
    search: Search,
    queries: torch.Tensor,
    truth: torch.Tensor,
    taken: tuple[float, float],
    built: float,
) -> dict[str, Any]:
    ranked = truth.shape[1]
    rows = search.search(queries, [0] * len(queries), ranked).rows
    pairs = list(zip(truth.tolist(), rows.tolist(), strict=True))
    return {
        "alone": taken[0],
        "batch": taken[1] / BATCH,
        "r1": float(np.mean([a[0] == b[0] for a, b in pairs])),
        "r10": float(np.mean([len(set(a) & set(b)) / ranked for a, b in pairs])),
        "build": built,
    }
