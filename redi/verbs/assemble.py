"""From a configuration to the objects that it names, with every check that needs no computing."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from redi.config import Config, DataConfig, ModelConfig
from redi.data.coco import captions
from redi.data.digests import digest_of
from redi.data.noise import NoisePolicy
from redi.data.overlap import Overlap, overlap
from redi.data.prompt_files import read_prompts
from redi.embedded.atlas import ASSETS, STYLES
from redi.embedded.captions import Composition, prompts
from redi.errors import UsageError, unknown
from redi.knowledge_base import Column, Manifest
from redi.knowledge_base.precision import precision
from redi.knowledge_base.steps import step_group
from redi.lazy import torch
from redi.methods import Setup
from redi.methods.few.plan import check_calls
from redi.methods.redi import ReDi
from redi.models.hub import hub_folder
from redi.models.network import check_compiler, prepare
from redi.ranges import check_ranges
from redi.report.loggers import check_logger
from redi.retrieval.kinds import INDEXES, check_index
from redi.samplers import Sampler, SamplerOptions, build_sampler, check_options
from redi.verbs.devices import check_trainer
from redi.verbs.entries import fitted_methods
from redi.verbs.folders import check_folder
from redi.verbs.named_kb import named_kb
from redi.verbs.quiet import quiet_loading

if TYPE_CHECKING:
    from redi.models.base import DiffusionModel
    from redi.models.text_to_image import TextToImageModel

EMBEDDED_MODEL = ASSETS / "emoji-scenes"
_DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Prompts:
    """Prompts of one role, with what they say of a scene where the data set knows it."""

    texts: list[str]
    scenes: list[Composition] | None
    #: what is said until the jump, where that is something else
    early: list[str] | None = None


def setting_from(config: Config) -> ReDi:
    """Key step, value step and estimator; derives the value step where it is not given."""
    retrieval, k, n = config.retrieval, config.kb.key_step, config.sampling.steps
    names = ("value_step", "skip_length", "skip_share")
    given = [name for name in names if getattr(retrieval, name) is not None]
    if len(given) > 1:
        told = " and ".join(f"retrieval.{name}={getattr(retrieval, name)}" for name in given)
        raise UsageError(f"{told} say the same thing twice: give only one of them")
    if retrieval.value_step is not None:
        v = retrieval.value_step
    elif retrieval.skip_length is not None:
        v = k + retrieval.skip_length
        if v > n:
            raise UsageError(
                f"retrieval.skip_length={retrieval.skip_length} from kb.key_step={k} goes past "
                f"sampling.steps={n}: use at most {n - k}"
            )
    elif retrieval.skip_share is not None:
        v = k + round(retrieval.skip_share * n)
        if not k < v <= n:
            raise UsageError(
                f"retrieval.skip_share={retrieval.skip_share} from kb.key_step={k} leads to step "
                f"{v} of sampling.steps={n}: use more than 0 and at most {(n - k) / n:.2f}"
            )
    else:
        v = min(k + n // 2, n)
    setting = ReDi(
        k,
        v,
        retrieval.neighbours,
        retrieval.estimator,
        retrieval.weights,
        retrieval.resume,
        retrieval.max_distance,
        retrieval.tolerance,
        retrieval.risk,
    )
    setting.check(k, v, n)
    return setting


def check(config: Config, queries: bool = True) -> ReDi:
    """Everything about a configuration that can be refused before any work.

    A command that has no `queries` needs no prompts of theirs.
    """
    check_ranges(config)
    setting = setting_from(config)
    sampler = config.sampler
    check_options(
        sampler.name,
        SamplerOptions(sampler.timestep_spacing, sampler.order, sampler.use_karras_sigmas),
    )
    if config.retrieval.neighbours > config.kb.size:
        raise UsageError(
            f"retrieval.neighbours={config.retrieval.neighbours} is more than "
            f"kb.size={config.kb.size}: lower the one or raise the other"
        )
    for name, dtype in (("model.dtype", config.model.dtype), ("other_dtype", config.other_dtype)):
        if dtype not in _DTYPES:
            raise unknown(f"{name}={dtype!r}", dtype, _DTYPES)
    if config.model.compile:
        check_compiler()
    check_trainer(config.trainer)
    check_logger(config.logger)
    check_folders(config)
    noise_from(config)
    stored_steps(config, setting)
    for calls in config.correction.calls:
        check_calls(config.sampling.steps, calls)
    fitted_methods(config)
    precisions(config)
    if config.retrieval.index not in INDEXES:
        index = config.retrieval.index
        raise unknown(f"retrieval.index={index!r}", index, INDEXES)
    check_index(config.retrieval.index, config.kb.size // max(1, config.noise.bank_size))
    asked = queries_from(config.data) if queries else None
    size = config.kb.shard_size
    rows = -(-(config.kb.first + config.kb.size) // size) * size  # whole shards
    if config.data.name == "scenes":  # there is no end of them
        prompts_from(config.data, "kb", 1)
    else:
        entries = prompts_from(config.data, "kb", rows).texts[: config.kb.size]
        if config.kb.dir is None and asked is not None:
            overlap_with(config, asked, entries).require_unseen(config.data.allow_overlap)
    return setting


def overlap_with(
    config: Config, queries: Prompts, entries: list[str], noises: Iterable[int] | None = None
) -> Overlap:
    """What queries share with trajectories; without `noises` these are as the recipe has them."""
    noise = noise_from(config)
    theirs = map(noise.kb_id, range(len(entries))) if noises is None else noises
    mine = [noise.query_id(index) for index in range(len(queries.texts))]
    return overlap(queries.texts, mine, entries, theirs)


def check_folders(config: Config) -> None:
    """Refuse folders that cannot be written; what is finished there is only read."""
    if config.run_dir is not None:
        check_folder("run_dir", config.run_dir, "results.json")
    if config.reference_root is not None:
        check_folder("reference_root", config.reference_root)
    kb = named_kb(config.kb)
    if kb is None:
        check_folder("kb.root", config.kb.root)
    else:
        check_folder("kb.dir", kb, "manifest.json")


def noise_from(config: Config) -> NoisePolicy:
    return NoisePolicy(config.noise.policy, config.noise.bank_size, config.noise.seed)


def model_from(
    config: ModelConfig, guidance_scale: float, negative_prompt: str
) -> TextToImageModel:
    """Load the pipeline; the embedded one where no path is given."""
    from redi.models.text_to_image import TextToImageModel, load_pipeline

    quiet_loading()
    if config.kind != "pipeline":
        raise UsageError(
            f"model.kind={config.kind!r} has no pictures to evaluate: use model=emoji or "
            "model=local (model=analytic is for 'redi theory')"
        )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = getattr(torch, config.dtype)
    pipeline = load_pipeline(pipeline_folder(config), dtype, device)
    model = TextToImageModel(
        pipeline, guidance_scale, negative_prompt, config.batch_size, config.size
    )
    prepare(model.network, config.channels_last, config.compile)
    return model


def pipeline_folder(config: ModelConfig) -> Path:
    """Where the pipeline is: the embedded one without a path or hub id, which may be downloaded."""
    if config.path is not None:
        return Path(config.path)
    return EMBEDDED_MODEL if config.hub_id is None else hub_folder(config.hub_id)


def sampler_from(config: Config, model: DiffusionModel, steps: int | None = None) -> Sampler:
    """The configured sampler with its own or another number of steps."""
    return build_sampler(
        config.sampler.name,
        model.scheduler_config,
        config.sampling.steps if steps is None else steps,
        config.sampler.timestep_spacing,
        config.sampler.order,
        config.sampler.use_karras_sigmas,
    )


def queries_from(config: DataConfig) -> Prompts:
    """One row per query prompt and noise: row `i` is prompt `i // data.repeats`."""
    found, times = prompts_from(config, "query", config.num_queries), range(config.repeats)

    def repeated(rows: list[Any]) -> list[Any]:
        return [row for row in rows for _ in times]

    return Prompts(
        repeated(found.texts),
        None if found.scenes is None else repeated(found.scenes),
        None if found.early is None else repeated(found.early),
    )


def prompts_from(config: DataConfig, role: str, count: int) -> Prompts:
    """The first `count` prompts of `role` (kb or query)."""
    if config.name == "scenes":
        chosen = config.query_styles if role == "query" else config.kb_styles
        if chosen is None and role == "query" and config.late_style:
            chosen = list(STYLES)  # a style that comes late has to be named
        styles = None if chosen is None else tuple(chosen)
        scenes, texts = prompts(role, count, config.seed, config.captions, styles)
        if role == "query" and config.late_style:
            unsaid = prompts(role, count, config.seed, config.captions, styles, omit=("style",))
            return Prompts(texts, scenes, unsaid[1])
        return Prompts(texts, scenes)
    for name, usual in (
        *(("captions", "open"), ("kb_styles", None)),
        *(("query_styles", None), ("late_style", False)),
    ):
        if getattr(config, name) != usual:
            raise UsageError(
                f"data.{name}={getattr(config, name)} needs prompts that say what is known of a "
                "scene: use data=scenes"
            )
    listed = listed_prompts(config, role)
    if listed is None:
        raise unknown(f"data.name={config.name!r}", config.name, ("scenes", "file", "coco2014"))
    return _enough(listed, source_of(config, role), count)


def listed_prompts(config: DataConfig, role: str) -> list[str] | None:
    """All prompts that files give to a role (kb or query); None where none is read."""
    if config.name == "coco2014":
        return captions(config.root, role, config.seed)
    if config.name != "file":
        return None
    path = getattr(config, f"{role}_file")
    if path is None:
        raise UsageError(f"data.{role}_file is not set: name a text file, one prompt per line")
    return read_prompts(Path(path), source_of(config, role), config.column)


def source_of(config: DataConfig, role: str) -> str:
    """The key, with its value, that names where a role's prompts come from."""
    if config.name == "coco2014":
        return f"data.root={config.root!r}"
    return f"data.{role}_file={getattr(config, f'{role}_file')!r}"


def _enough(texts: list[str], source: str, count: int) -> Prompts:
    if len(texts) < count:
        raise UsageError(
            f"{source} holds {len(texts)} prompts and {count} are wanted: "
            "add prompts or lower kb.size / data.num_queries"
        )
    return Prompts(texts[:count], None)


def key_steps(config: Config) -> list[int]:
    """Steps that the KB has keys at, ascending."""
    k, several = config.kb.key_step, config.kb.key_steps
    if several is None:
        return [k]
    if k not in several:
        raise UsageError(f"kb.key_step={k} is not in kb.key_steps={sorted(several)}: add it there")
    return sorted(set(several))


def stored_steps(config: Config, setting: ReDi) -> list[int]:
    """Steps that the KB stores, ascending: its key steps and the value steps of each."""
    keys, n = key_steps(config), config.sampling.steps
    values = {n}
    for k in keys:
        one = replace(config, kb=replace(config.kb, key_step=k))
        values |= _value_steps(one, setting if len(keys) == 1 else setting_from(one), keys[0])
    return sorted({*keys, *values})


def _value_steps(config: Config, setting: ReDi, first: int) -> set[int]:
    """Value steps that the KB stores for one of its key steps, the first of which is `first`."""
    n = config.sampling.steps
    k, v = setting.steps_of(None, n)
    if config.kb.value_steps is None:
        grid = set(range(k, n, max(1, n // 10))) - {k} | {min(k + n // 2, n)}
        return grid if v in grid | {n} else set(range(k + 1, n))
    bad = [v for v in config.kb.value_steps if not first < v <= n]
    if bad:
        raise UsageError(
            f"kb.value_steps has {bad[0]}, which is not after kb.key_step={first} and within "
            f"sampling.steps={n}: take it out"
        )
    values = set(config.kb.value_steps)
    if v not in values:
        raise UsageError(
            f"retrieval.value_step={v} is not in kb.value_steps={sorted(values)}: add it there"
        )
    return values


def precisions(config: Config) -> tuple[str, str]:
    """Stored types of keys and of values."""
    return (
        precision("kb.key_precision", config.kb.key_precision, ("full", "half")),
        precision("kb.value_precision", config.kb.value_precision, ("full", "half", "int8")),
    )


def manifest_from(
    config: Config, setting: ReDi, model: TextToImageModel, sampler: Sampler
) -> Manifest:
    """Identity and layout of the KB that this configuration needs."""
    keys, steps = key_steps(config), stored_steps(config, setting)
    shape = model.latent_shape
    key, value = precisions(config)
    columns = []
    for step in keys:
        columns.append(Column(step_group(step), "latents", shape, key))
        columns.append(Column(step_group(step), "prediction", shape, value))
    columns.append(Column("prompt", "embedding", (model.embedding_size,), key))
    setup = Setup(sampler, model.scheduler_config)
    levels = sorted({step for m in fitted_methods(config) for step in m.needed_steps(setup)})
    columns += [Column(step_group(s), "latents", shape, value) for s in levels if s not in steps]
    for step in steps[1:]:
        if step not in keys:
            columns.append(Column(step_group(step), "latents", shape, value))
        carried = sampler.history_after(step)
        if config.kb.store_history and carried and step < sampler.num_steps:
            columns.append(Column(step_group(step), "history", (carried, *shape), value))
    identity = _identity(config, steps, model, sampler)
    return Manifest(identity, tuple(columns), config.kb.shard_size)


def _identity(
    config: Config, steps: list[int], model: TextToImageModel, sampler: Sampler
) -> dict[str, Any]:
    from redi.models.identity import schedule_identity

    noise = noise_from(config)
    listed = listed_prompts(config.data, "kb")  # by content: a file may change under its name
    identity = {
        **model.identity(),
        **schedule_identity(sampler).fields,
        "key_step": steps[0],
        "stored_steps": steps,
        "step_convention": "latents after this many completed updates",
        "noise_policy": noise.policy,
        "noise_bank_size": noise.bank_size,
        "noise_seed": noise.seed,
        "data": config.data.name,
        "data_seed": config.data.seed,
        "data_file": None if listed is None else digest_of(listed),
        "store_history": config.kb.store_history,
    }
    if config.data.name == "scenes":
        identity["data_captions"] = config.data.captions
    if config.data.kb_styles is not None:
        identity["data_styles"] = sorted(config.data.kb_styles)
    if len(keys := key_steps(config)) > 1:
        identity["key_steps"] = keys
    return json.loads(json.dumps(identity))  # as it will be read back
