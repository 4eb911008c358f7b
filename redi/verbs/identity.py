"""What a run is: what was chosen other than by default, and what every input holds."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from redi.config import Config, ModelConfig
from redi.data.digests import digest_of, files_digest, pipeline_files
from redi.errors import UsageError
from redi.knowledge_base import KnowledgeBase
from redi.methods import Method
from redi.metrics.catalogue import wanted
from redi.metrics.evaluator import EMBEDDED_EVALUATOR
from redi.metrics.real import real_files
from redi.metrics.weights import WEIGHTS
from redi.verbs.assemble import listed_prompts, pipeline_folder
from redi.verbs.named_kb import named_kb

#: to be raised when a default changes, or what a setting means
VERSION = 3
#: where and how a run is carried out, which its results do not depend on
_ELSEWHERE = ("run_dir", "trainer", "reference_root", "logger")
_HOW = ("kb.check_hashes", "retrieval.rebuild_index", "metrics.download")
#: names of inputs, whose content counts instead
_NAMED = (
    *("kb.dir", "kb.root", "model.path", "model.hub_id", "data.kb_file", "data.query_file"),
    *("data.column", "data.root"),
    *("metrics.evaluator_path", "metrics.real_folder", "metrics.weights"),
)


def run_identity(config: Config) -> dict[str, Any]:
    """Everything that the results of a run depend on, as plain data.

    A key that is new since a run was made is at its default in that run and changes nothing.
    """
    return {"version": VERSION, "changed": changed(config), "inputs": inputs_of(config)}


def short(identity: dict[str, Any]) -> str:
    """The identity as part of a name."""
    return digest_of(identity)[:12]


def changed(config: Config) -> dict[str, Any]:
    """The settings that differ from their defaults, by dotted name."""
    mine, usual = _flat(config), _flat(Config())
    left_out = (*_HOW, *_NAMED)
    return {
        name: value
        for name, value in mine.items()
        if value != usual[name] and name.split(".")[0] not in _ELSEWHERE and name not in left_out
    }


def inputs_of(config: Config) -> dict[str, str]:
    """Digests of what the files hold that a run reads, by what they are to it."""
    found = {"model": model_digest(config.model)}
    for role, count in (("kb", config.kb.size), ("query", config.data.num_queries)):
        prompts = listed_prompts(config.data, role)
        if prompts is not None:
            found[f"{role} prompts"] = digest_of(prompts[:count])
    needs = {name for kind in wanted(config) for name in kind.needs}
    if "evaluator" in needs:
        folder = Path(config.metrics.evaluator_path or EMBEDDED_EVALUATOR)
        found["evaluator"] = _folder_digest(folder, "metrics.evaluator_path")
    for name in sorted(needs & set(WEIGHTS)):
        found[name] = _digest(Path(config.metrics.weights) / WEIGHTS[name].name)
    if needs & {"inception", "clip"}:
        pictures = real_files(config)
        if pictures:
            found["real pictures"] = files_digest(*pictures)
    named = named_kb(config.kb)
    if named is not None:
        found["kb"] = KnowledgeBase(named, config.kb.size, hashes=False).content_hash
    return found


def model_digest(config: ModelConfig) -> str:
    """Digest of the files of the pipeline that a configuration names."""
    folder = pipeline_folder(config)
    if not (folder / "model_index.json").is_file():
        return "missing"  # loading it says what is wrong
    return files_digest(folder, pipeline_files(folder))


def differences(mine: dict[str, Any], found: Any) -> list[str]:
    """What differs between this run's identity and one that was read, one phrase each."""
    if not isinstance(found, dict) or found.get("version") != mine["version"]:
        return ["it was made by another version of redi"]
    phrases = []
    theirs = found.get("changed", {})
    for name in sorted({*mine["changed"], *theirs}):
        here, there = (side.get(name, "the default") for side in (mine["changed"], theirs))
        if here != there:
            phrases.append(f"{name}: it has {there}, this run {here}")
    theirs = found.get("inputs", {})
    for name in sorted({*mine["inputs"], *theirs}):
        if mine["inputs"].get(name) != theirs.get(name):
            phrases.append(f"{name}: another content")
    return phrases


def _flat(config: Any, prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for entry in fields(config):
        value = getattr(config, entry.name)
        name = prefix + entry.name
        found |= _flat(value, f"{name}.") if is_dataclass(value) else {name: _plain(value)}
    return found


def _plain(value: Any) -> Any:
    """Methods among the settings as their names and settings."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, Method):
        return {"method": value.name, **value.settings()}
    return value


def _folder_digest(folder: Path, told: str) -> str:
    if not folder.is_dir():
        raise UsageError(f"{told}={str(folder)!r} is not a directory: name the evaluator's folder")
    return files_digest(folder, [path for path in folder.rglob("*") if path.is_file()])


def _digest(path: Path) -> str:
    if path.is_dir():
        return _folder_digest(path, "metrics.weights")
    return files_digest(path.parent, [path]) if path.is_file() else "missing"
