"""Indexes: what they find against brute force, what they keep, what they refuse."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from redi.errors import UsageError
from redi.knowledge_base import Column, Entry, KnowledgeBase, Manifest, Writer
from redi.reading import read_json
from redi.retrieval import ExactSearch, IndexedSearch, open_search
from redi.retrieval.finders import Scan
from redi.retrieval.indexed import IndexedSearch as Search
from redi.retrieval.keys import ArrayKeys
from redi.retrieval.kinds import INDEXES, resolve
from redi.retrieval.opening import build_index, finders_from, scans
from redi.retrieval.projection import Projection

PARTIAL = [kind for kind in INDEXES if kind not in ("auto", "flat")]


def synthetic(count: int, seed: int = 0) -> torch.Tensor:
    """A large common part, low-rank effects, a little noise: (count, 2, 8, 8)."""
    rng = np.random.default_rng(7)
    common, effects = 10 * rng.normal(size=128), rng.normal(size=(12, 128))
    own = np.random.default_rng(seed)
    keys = common + own.normal(size=(count, 12)) @ effects + 0.05 * own.normal(size=(count, 128))
    return torch.from_numpy(keys.reshape(count, 2, 8, 8).astype("f4"))


def store(root: Path, keys: torch.Tensor, dtype: str = "float32") -> KnowledgeBase:
    size = 50
    columns = (Column("step_0002", "latents", tuple(keys.shape[1:]), dtype),)
    writer = Writer(root, Manifest({}, columns, size), {})
    for shard in range(len(keys) // size):
        rows = range(shard * size, (shard + 1) * size)
        entries = [Entry(i, f"prompt {i}", i % 2) for i in rows]
        part = keys[rows[0] : rows[-1] + 1].numpy()
        writer.write(shard, {("step_0002", "latents"): part}, entries)
    return KnowledgeBase(root)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 60), st.integers(1, 5), st.integers(1, 3), st.integers(0, 99))
def test_a_scan_equals_exact_search(count: int, neighbours: int, parts: int, seed: int) -> None:
    keys, asked = synthetic(count, seed), synthetic(4, seed + 100)
    partitions = np.arange(count) % parts
    exact = ExactSearch(keys, partitions)
    scan = Search(ArrayKeys(keys.numpy()), partitions, scans(ArrayKeys(keys.numpy()), partitions))
    neighbours = min(neighbours, exact.smallest_partition())
    wanted = [i % min(parts, count) for i in range(4)]
    one, two = (s.search(asked, wanted, neighbours) for s in (exact, scan))
    assert torch.equal(one.rows, two.rows) and torch.equal(one.distances, two.distances)


def test_a_scan_goes_through_blocks() -> None:
    keys = synthetic(2500).flatten(1)
    found, squares = Scan(ArrayKeys(keys.numpy()), torch.arange(2500)).find(
        keys[[0, 1500, 2499]], 1
    )
    assert found[:, 0].tolist() == [0, 1500, 2499] and float(squares.max()) < 1e-2


def test_projected_distances_never_exceed_the_keys_own() -> None:
    keys = synthetic(80).flatten(1)
    projection = Projection.fit(keys[:40], 9)
    assert torch.allclose(projection.basis[:8] @ projection.basis[:8].T, torch.eye(8), atol=1e-5)
    inside = torch.cdist(projection(keys).double(), projection(keys).double())
    assert bool((inside <= torch.cdist(keys.double(), keys.double()) + 1e-3).all())


@pytest.mark.parametrize(
    ("kind", "dtype"), [*((kind, "float32") for kind in PARTIAL), ("pca", "float16")]
)
def test_an_index_finds_what_exact_search_finds(tmp_path: Path, kind: str, dtype: str) -> None:
    kb = store(tmp_path, synthetic(600), dtype)
    asked, partitions = synthetic(20, 1), kb.noise_ids
    wanted = [i % 2 for i in range(20)]
    exact = open_search(kb, "step_0002", "latents", partitions, "flat", say=lambda _: None)
    search = open_search(kb, "step_0002", "latents", partitions, kind, say=lambda _: None)
    assert isinstance(exact, ExactSearch) and isinstance(search, IndexedSearch)
    truth, found = exact.search(asked, wanted, 5), search.search(asked, wanted, 5)
    hits = [
        len(set(a) & set(b)) for a, b in zip(truth.rows.tolist(), found.rows.tolist(), strict=True)
    ]
    assert sum(hits) / 100 >= (1.0 if kind == "pca" else 0.8)
    direct = kb.column("step_0002", "latents")[found.rows].double() - asked[:, None].double()
    assert torch.allclose(found.distances, direct.flatten(2).norm(dim=2), rtol=1e-12)
    assert bool((found.rows % 2 == torch.tensor(wanted)[:, None]).all())


def test_an_index_is_kept_refused_when_stale_and_rebuilt_on_request(tmp_path: Path) -> None:
    kb, said = store(tmp_path, synthetic(200)), list[str]()

    def opened(rebuild: bool = False) -> Search:
        partitions = np.zeros(len(kb), int)
        found = open_search(kb, "step_0002", "latents", partitions, "pca", rebuild, said.append)
        assert isinstance(found, IndexedSearch)
        return found

    first = opened().search(synthetic(5, 1), [0] * 5, 3)
    assert "Building the index" in said[-1]
    again = opened().search(synthetic(5, 1), [0] * 5, 3)
    assert "Building" not in said[-1] and torch.equal(first.rows, again.rows)
    (folder,) = (tmp_path / "index").iterdir()
    arrays = next(folder.glob("arrays-*"))
    original = arrays.read_bytes()
    arrays.write_bytes(original[:-5] + bytes([original[-5] ^ 1]) + original[-4:])
    with pytest.raises(UsageError, match="damaged.*redi kb index"):
        opened()
    arrays.write_bytes(original)
    content = read_json(folder / "index.json", "")
    (folder / "index.json").write_text(str(content).replace("'", '"').replace("pca", "pcb"))
    with pytest.raises(UsageError, match="altered"):
        opened()
    opened(rebuild=True)

    for path in tmp_path.glob("journal/*"):  # another content under the same name
        path.unlink()
    kb = store(tmp_path, synthetic(200, 3))
    with pytest.raises(UsageError, match="stale.*kb.*redi kb index"):
        opened()
    opened(rebuild=True)
    assert len(list(folder.glob("arrays-*"))) == 1
    assert len(opened().members[0]) == 200


def test_auto_picks_by_size_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    said: list[str] = []
    kb = store(tmp_path, synthetic(50))
    open_search(kb, "step_0002", "latents", np.zeros(50, int), say=said.append)
    assert said == ["Retrieval: flat over 50 keys (auto)"]
    sizes = ((2_000, 1024), (2_001, 1024), (1_000, 16384), (10**5, 1024), (10**5, 4))
    assert [resolve("auto", *s) for s in sizes] == ["flat", "pca", "pca", "sq", "flat"]
    assert resolve("sq", 10**6, 1024) == "sq"
    with pytest.raises(UsageError, match="retrieval.index='annoy' is unknown"):
        open_search(kb, "step_0002", "latents", np.zeros(50, int), "annoy")


def test_a_gpu_compares_every_key_of_larger_bases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    sizes = ((1000, 1024), (100_000, 16384), (4_000_001, 16384))
    assert [resolve("auto", *s) for s in sizes] == ["flat", "pca", "sq"]


def test_an_index_never_sees_queries() -> None:
    keys = ArrayKeys(synthetic(300).numpy())
    tensors = build_index(keys, np.zeros(300, int), "hnsw")
    search = Search(keys, np.zeros(300, int), finders_from("hnsw", tensors))
    before = {name: tensor.clone() for name, tensor in tensors.items()}
    search.search(synthetic(50, 5), [0] * 50, 3)
    search.search(100 + synthetic(50, 5), [0] * 50, 3)
    after = build_index(keys, np.zeros(300, int), "hnsw")
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("kind", ["pca", "hnsw"])
def test_an_answer_does_not_depend_on_the_batch(kind: str) -> None:
    keys, asked = ArrayKeys(synthetic(900).half().numpy()), synthetic(24, 4)
    partitions = np.arange(900) % 3
    search = Search(keys, partitions, finders_from(kind, build_index(keys, partitions, kind)))
    wanted = [i % 3 for i in range(24)]
    together = search.search(asked, wanted, 5)
    for order in (range(24), reversed(range(24))):
        for i in order:
            alone = search.search(asked[i : i + 1], wanted[i : i + 1], 5)
            assert torch.equal(alone.rows[0], together.rows[i])
            assert torch.equal(alone.distances[0], together.distances[i])


def test_equal_distances_are_ordered_by_trajectory() -> None:
    keys = synthetic(40)[torch.arange(120) % 40]
    search = Search(
        ArrayKeys(keys.numpy()),
        np.zeros(120, int),
        scans(ArrayKeys(keys.numpy()), np.zeros(120, int)),
    )
    found = search.search(keys[:40], [0] * 40, 3)
    assert found.rows.tolist() == [[i, i + 40, i + 80] for i in range(40)]
    assert float(found.distances.max()) == 0.0


def test_a_search_by_components_loads_neither_faiss_nor_arrow(tmp_path: Path) -> None:
    kb = store(tmp_path, synthetic(200))
    open_search(kb, "step_0002", "latents", np.zeros(200, int), "pca", say=lambda _: None)
    program = (
        "import sys; from pathlib import Path; import numpy as np\n"
        "from redi.knowledge_base import KnowledgeBase\n"
        "from redi.retrieval import open_search\n"
        "kb = KnowledgeBase(Path(sys.argv[1]))\n"
        "search = open_search(kb, 'step_0002', 'latents', np.zeros(200, int), 'pca')\n"
        "search.search(kb.column('step_0002', 'latents', 0, 4), [0] * 4, 3)\n"
        "heavy = {'faiss', 'pyarrow', 'diffusers', 'lightning', 'pandas', 'scipy', 'sklearn'}\n"
        "sys.exit(f'loaded: {heavy & set(sys.modules)}' if heavy & set(sys.modules) else 0)\n"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True)


@pytest.mark.parametrize("kind", ["pca", "sq"])
def test_a_search_uses_one_thread_and_gives_the_others_back(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys, asked, used = ArrayKeys(synthetic(300).numpy()), synthetic(3, 5), list[int]()
    search = Search(
        keys, np.zeros(300, int), finders_from(kind, build_index(keys, np.zeros(300, int), kind))
    )
    project = Projection.__call__
    ranked = Search._ranked

    def watched(method):
        def call(*arguments):
            used.append(torch.get_num_threads())
            return method(*arguments)

        return call

    monkeypatch.setattr(Projection, "__call__", watched(project))
    monkeypatch.setattr(Search, "_ranked", watched(ranked))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        search.search(asked, [0] * 3, 4)
        assert len(used) >= 4 and set(used) == {1} and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
