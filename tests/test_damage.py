"""Every kind of file, damaged or forged: what is read is right, or one sentence says why not."""

from __future__ import annotations

import json
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from stores import fill, read_all, reseal

from redi.errors import UsageError
from redi.files import write_json
from redi.knowledge_base import all_shards, copy_kb, verify
from redi.methods.corrected.adaptive import fit_policy
from redi.methods.corrected.corrector import Correction, StepCorrection
from redi.methods.corrected.features import Features
from redi.methods.corrected.kernel import Choice, fit_kernel
from redi.methods.corrected.local import PatchRidge
from redi.methods.corrected.store import load_correction, load_policy, save_correction, save_policy
from redi.methods.few.plan import Plan
from redi.methods.memo import Kept
from redi.reading import sha256
from redi.report.examples import Example, read_examples, write_examples
from redi.report.runs import load_run
from redi.retrieval import open_search
from redi.samplers import Sampler, build_sampler
from redi.verbs import reference

OF = {"kb": "a", "model": "b"}
MODEL: Any = SimpleNamespace(identity=lambda: {"model_hash": "b"}, device=torch.device("cpu"))
_MEMORY = 256 << 10  # kB that reading a damaged file may take: far less than a forged size


def made(root: Path) -> Path:
    """One of each kind: KB, index, correction, adaptive budget, reference run."""
    answers = {
        "ab": Kept(torch.ones(2, 3), None, 0.5),
        "cd": Kept(torch.zeros(2, 3), torch.ones(2, 3), 0.25),
    }
    reference.write(root / "reference.safetensors", MODEL, answers)
    if (root / "done").is_file():
        return root
    fill(root / "kb")
    search(root)
    generator = torch.Generator().manual_seed(0)
    inputs, targets = (torch.randn(9, n, generator=generator) for n in (6, 18))
    kernel, _, _ = fit_kernel(inputs, targets, [Choice("gaussian", 1.0, 0.1)])
    local = PatchRidge(torch.randn(2, 2, 1, 1, generator=generator), torch.randn(2), 1, 0.1)
    step = StepCorrection(Features(("clean",), (1.0,)), local, {0: kernel}, {"both": 0.5})
    plan = Plan(sampler(), (0, 4, 10))
    correction = Correction(plan, "ddim", (step, step), torch.rand(9, generator=generator))
    save_correction(root / "correction.safetensors", correction, OF)
    errors = torch.rand(9, 2, generator=generator).double()
    save_policy(root / "budget.safetensors", fit_policy(inputs, errors, (4, 2), 0.5, 0.3), OF)
    (root / "done").touch()
    return root


def sampler() -> Sampler:
    betas = {"beta_start": 0.001, "beta_end": 0.02, "num_train_timesteps": 1000}
    return build_sampler("ddim", betas, 10, "trailing")


def search(root: Path) -> Any:
    kb = read_all(root / "kb")
    found = open_search(kb, "step_0002", "latents", kb.partitions, "pca", say=lambda _: None)
    return found.search(kb.latents(2) + 0.1, [0] * len(kb), 3)


def read_kb(root: Path) -> Any:
    kb = read_all(root / "kb")
    verify(kb.root, all_shards(kb.root))
    columns = [kb.column(c.group, c.name).tolist() for c in kb.manifest.columns]
    return kb.manifest.identity, kb.prompts, kb.noise_ids.tolist(), columns


def read_copy(root: Path) -> Any:
    shutil.rmtree(root / "copy", ignore_errors=True)
    copy_kb(root / "kb", root / "copy")
    return read_all(root / "copy").column("step_0002", "latents").tolist()


def read_index(root: Path) -> Any:
    found = search(root)
    return found.rows.tolist(), found.distances.tolist()


def read_correction(root: Path) -> Any:
    read = load_correction(root / "correction.safetensors", sampler(), OF)
    kernels = [[getattr(k, n).tolist() for n in ("centre", "inputs", "coefficients")]
               for step in read.steps for k in step.kernels.values()]  # fmt: skip
    return read.plan.steps, read.base, [step.errors for step in read.steps], kernels


def read_policy(root: Path) -> Any:
    read = load_policy(root / "budget.safetensors", OF)
    return read.budgets, read.threshold, read.regression.inputs.tolist()


def read_reference(root: Path) -> Any:
    """A damaged one holds no answers, and is made again: that stands for its sentence."""
    found = reference.read(root / "reference.safetensors", MODEL)
    if not found:
        raise UsageError("the reference run holds no answers: it is made again")
    return {name: [given if given is None or isinstance(given, float) else given.tolist()
                   for given in kept] for name, kept in found.items()}  # fmt: skip


READERS: dict[str, Callable[[Path], Any]] = {
    "kb": read_kb, "copy": read_copy, "index": read_index, "correction": read_correction,
    "policy": read_policy, "reference": read_reference,
}  # fmt: skip


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    root = made(tmp_path_factory.mktemp("made"))
    return root, {name: read(root) for name, read in READERS.items()}


def files(root: Path) -> list[Path]:
    return sorted(p for p in root.rglob("*") if p.is_file() and p.name != "done")


def damaged(data: bytes, draw: Callable[..., Any], others: list[bytes]) -> bytes:
    """Bytes of a file after one accident."""
    place = draw(st.integers(0, max(0, len(data) - 1)))
    kind = draw(st.sampled_from(["flip", "cut", "blank", "insert", "repeat", "swap", "nothing"]))
    if kind == "flip":
        return data[:place] + bytes([data[place] ^ draw(st.integers(1, 255))]) + data[place + 1 :]
    if kind == "cut":
        return data[:place]
    if kind == "blank":
        return data[:place] + bytes(min(64, len(data) - place)) + data[place + 64 :]
    if kind == "insert":
        return data[:place] + draw(st.binary(min_size=1, max_size=9)) + data[place:]
    if kind == "repeat":
        return data + data
    return draw(st.sampled_from(others)) if kind == "swap" else b""


def read_or_sentence(root: Path, name: str) -> Any:
    """What a reader returns; None for one sentence. Anything else that is raised is a fault."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        return read_run(root) if name == "run" else READERS[name](root)
    except UsageError as error:
        assert 20 < len(str(error)) < 3000
        return None
    finally:
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < _MEMORY


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_an_accident_in_any_file_is_noticed(
    tmp_path_factory: pytest.TempPathFactory,
    pristine: tuple[Path, dict[str, Any]],
    data: st.DataObject,
) -> None:
    source, expected = pristine
    root = tmp_path_factory.getbasetemp() / "accident"
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(source, root)
    path = data.draw(st.sampled_from(files(root)), label="file")
    others = [p.read_bytes() for p in files(root)]
    path.write_bytes(damaged(path.read_bytes(), data.draw, others))
    for name in READERS:
        found = read_or_sentence(root, name)
        assert found is None or found == expected[name], (name, path)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 70), 1 << 70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(["", "../x", "step_0002", "float32", "int8", "\x1b[31m", "\ud800"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)


def forged(content: Any, draw: Callable[..., Any]) -> Any:
    """A JSON value with one value in it replaced, taken out or doubled."""
    if isinstance(content, dict) and content and draw(st.integers(0, 3)):
        key = draw(st.sampled_from(sorted(content)))
        if not draw(st.integers(0, 9)):
            return {k: v for k, v in content.items() if k != key}
        return content | {key: forged(content[key], draw)}
    if isinstance(content, list) and content and draw(st.integers(0, 3)):
        place = draw(st.integers(0, len(content) - 1))
        inner = forged(content[place], draw)
        return [*content[:place], inner, *content[place + draw(st.integers(0, 1)) :]]
    return draw(JSON)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_forgery_with_the_right_checksums_is_one_sentence_or_a_kb(
    tmp_path_factory: pytest.TempPathFactory,
    pristine: tuple[Path, dict[str, Any]],
    data: st.DataObject,
) -> None:
    root = tmp_path_factory.getbasetemp() / "forgery"
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(pristine[0], root)
    path = data.draw(st.sampled_from(files(root / "kb")), label="file")
    if path.suffix == ".json":
        reseal(path, lambda content: forged(content, data.draw))
    else:
        others = [p.read_bytes() for p in files(root)]
        path.write_bytes(damaged(path.read_bytes(), data.draw, others))
        size, digest = path.stat().st_size, sha256(path)
        if path.name.startswith("arrays-"):
            index = path.with_name("index.json")
            path.rename(path.with_name(f"arrays-{digest[:12]}.safetensors"))
            reseal(index, lambda content: content.update(sha256=digest))
        else:
            name, shard = f"{path.parent.name}/{path.name}", path.name[:5]
            described = {name: {"bytes": size, "sha256": digest}}
            reseal(root / f"kb/journal/{shard}.json", lambda c: c["files"].update(described))
    for reader in ("kb", "copy", "index"):
        read_or_sentence(root, reader)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_forged_correction_is_one_sentence_or_a_correction(
    tmp_path_factory: pytest.TempPathFactory,
    pristine: tuple[Path, dict[str, Any]],
    data: st.DataObject,
) -> None:
    from redi.sealed import load_sealed, save_sealed

    root = tmp_path_factory.getbasetemp() / "fitted"
    root.mkdir(exist_ok=True)
    for name, what in (("correction", "the correction"), ("budget", "the adaptive budget")):
        read = load_sealed(pristine[0] / f"{name}.safetensors", what, {})
        tensors = dict(read.tensors)
        if data.draw(st.booleans()):
            chosen = data.draw(st.sampled_from(sorted(tensors)))
            change = data.draw(st.sampled_from(["drop", "nan", "int", "name"]))
            tensor = tensors.pop(chosen)
            if change != "drop":
                tensors["other" if change == "name" else chosen] = {
                    "nan": tensor * torch.nan, "int": tensor.long(), "name": tensor
                }[change]  # fmt: skip
        content = forged(json.loads(json.dumps(read.content)), data.draw)
        save_sealed(root / f"{name}.safetensors", what, read.of, tensors, content)
    for reader in ("correction", "policy"):
        read_or_sentence(root, reader)


def read_run(root: Path) -> Any:
    run = load_run(root / "run")
    found = [run.pictures.by_prompt(p.entry, "psnr") for p in run.points]
    means = [None if column is None else column.tolist() for column in found]
    draws = run.pictures.draws("redi", "fd_scene")
    pictures = [sorted(example.pictures) for example in read_examples(run.folder)]
    return means, None if draws is None else draws.tolist(), pictures


def a_run(folder: Path) -> None:
    folder.mkdir()
    point = {
        "entry": "redi", "method": "redi", "sampler": "ddim", "steps": 9, "count": 2, "calls": 4.0,
        "psnr": 20.0, "psnr_low": 19.0, "psnr_high": 21.0,
    }  # fmt: skip
    content = {"schema": 2, "provenance": {}, "config": {}, "reference": {}, "settings": []}
    write_json(folder / "results.json", content | {"points": [point]})
    rows = [
        {"entry": "redi", "query": i, "noise": 0, "prompt": f"prompt {i}", "psnr": 20.0 + i}
        for i in range(2)
    ]
    draws = [{"entry": "redi", "quality": "fd_scene", "value": 0.5 + i} for i in range(3)]
    for name, table in (("per_image", rows), ("draws", draws)):
        pq.write_table(pa.Table.from_pylist(table), folder / f"{name}.parquet")
    picture = np.zeros((4, 4, 3), np.uint8)
    write_examples([Example(0, 0, "prompt 0", {"redi": picture})], folder / "examples.parquet")


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_damaged_run_is_one_sentence_or_a_run(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    source = tmp_path_factory.getbasetemp() / "run-made"
    if not source.is_dir():
        a_run(source)
    root = tmp_path_factory.getbasetemp() / "run-damaged"
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(source, root / "run")
    assert read_or_sentence(root, "run") == ([[20.0, 21.0]], [0.5, 1.5, 2.5], [["redi"]])
    path = data.draw(st.sampled_from(files(root)), label="file")
    if path.suffix == ".json" and data.draw(st.booleans()):
        path.write_text(json.dumps(forged(json.loads(path.read_text()), data.draw)))
    else:
        others = [p.read_bytes() for p in files(root)]
        path.write_bytes(damaged(path.read_bytes(), data.draw, others))
    read_or_sentence(root, "run")


def test_a_number_beyond_all_floats_is_one_sentence(tmp_path: Path) -> None:
    a_run(tmp_path / "run")
    path = tmp_path / "run" / "results.json"
    path.write_text(path.read_text().replace('"calls": 4.0', f'"calls": {10**400}'))
    with pytest.raises(UsageError, match="calls"):
        read_run(tmp_path)
