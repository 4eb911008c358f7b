"""`redi plan`: what an experiment will take, from a few measured network calls, before it runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from redi.config import Config, DataConfig
from redi.data.noise import NoisePolicy
from redi.errors import UsageError
from redi.knowledge_base import Manifest, complete_count, predicted_bytes
from redi.lazy import torch
from redi.methods.plain import Plain
from redi.methods.redi import ReDi
from redi.models.meter import now
from redi.models.text_to_image import TextToImageModel
from redi.ranges import check_ranges
from redi.samplers import Sampler
from redi.verbs.assemble import manifest_from, model_from, sampler_from, setting_from
from redi.verbs.build_kb import kb_root
from redi.verbs.run import check_baselines

_MEASURED = 3  # calls, after one that warms up
#: entries that cost a full run each, once for all points with the same sampler and queries
_FULL = ("other_noise", "other_precision", "switch", "content")


@dataclass
class Plan:
    """Network calls for one picture each, and bytes, of all points of a command."""

    points: int = 0
    #: trajectories still to be made, and bytes to be written, by folder of the KB
    trajectories: dict[Path, int] = field(default_factory=dict)
    bytes: dict[Path, int] = field(default_factory=dict)
    build_calls: int = 0
    query_calls: int = 0
    #: pictures that are made, all methods together
    pictures: int = 0

    @property
    def calls(self) -> int:
        return self.build_calls + self.query_calls


def planned(configs: Sequence[Config], model: TextToImageModel) -> Plan:
    """What the points of a command will take; runs that points share count once.

    Calls of methods that are fitted, and of their fits, are not in it.
    """
    plan = Plan(points=len(configs))
    calls_of: dict[Path, int] = {}
    shared: set[tuple[object, ...]] = set()
    for config in configs:
        others = [m for m in config.methods.values() if not isinstance(m, Plain)]
        if config.correction.calls or others:
            raise UsageError(
                "redi plan counts plain sampling, ReDi and its controls: leave out "
                "correction.calls and fitted methods"
            )
        check_ranges(config)
        check_baselines(config)
        setting, sampler = setting_from(config), sampler_from(config, model)
        manifest = _manifest(config, setting, _as_told(model, config), sampler)
        root, n = kb_root(config, manifest), sampler.num_steps
        shards = manifest.shards(config.kb.size)
        there = complete_count(root, manifest) if (root / "manifest.json").is_file() else 0
        rows = max(0, shards * manifest.shard_size - there)
        if rows > plan.trajectories.get(root, -1):
            plan.trajectories[root], calls_of[root] = rows, sampler.calls(0, n)
            plan.bytes[root] = predicted_bytes(manifest, rows)
        queries = config.data.num_queries * config.data.repeats
        k, v = setting.steps_of(None, n)
        after = sampler.calls(v, n)
        for name in ("full", "redi", *config.baselines):
            plan.pictures += queries
            once = name in ("full", "plain", *_FULL)
            cost = sampler.calls(0, n) if name in ("full", *_FULL) else after
            cost += sampler.calls(0, k) if name == "plain" else 0
            cost = 0 if name == "neighbour" else cost  # it is finished already
            key = (name, root, queries, cost)
            if not once or key not in shared:
                plan.query_calls += queries * cost
            shared.add(key)
        plan.pictures += queries * len(config.methods)
        plan.query_calls += queries * sum(method.calls for method in config.methods.values())
    plan.build_calls = sum(rows * calls_of[root] for root, rows in plan.trajectories.items())
    return plan


def _as_told(model: TextToImageModel, config: Config) -> TextToImageModel:
    """The same pipeline with what a point says of guidance and batches."""
    said = config.sampling
    return TextToImageModel(
        model.pipeline,
        said.guidance_scale,
        said.negative_prompt,
        config.model.batch_size,
        config.model.size,
    )


def _manifest(config: Config, setting: ReDi, model: TextToImageModel, sampler: Sampler) -> Manifest:
    """The layout of the KB; where its captions are not there yet, under another name."""
    try:
        return manifest_from(config, setting, model, sampler)
    except UsageError:
        return manifest_from(replace(config, data=DataConfig()), setting, model, sampler)


def seconds_per_call(model: TextToImageModel) -> float:
    """Seconds of one network call for one picture, guided where the model is, in full batches."""
    rows = model.batch_size
    predict = model.predictor(model.encode([""] * rows))
    noise = NoisePolicy("per_prompt", 1, 0).draw(list(range(rows)), model.latent_shape)
    noise, timestep = noise.to(model.device), torch.tensor(500, device=model.device)
    predict(noise, timestep)
    began = now(model.device)
    for _ in range(_MEASURED):
        predict(noise, timestep)
    return (now(model.device) - began) / (_MEASURED * rows)


def pipeline_of(config: Config) -> tuple[object, ...]:
    """What says which network is called, and how."""
    chosen = config.model
    run = chosen.dtype, chosen.channels_last, chosen.compile
    return chosen.kind, chosen.path, chosen.hub_id, chosen.size, *run


def plan_job(configs: Sequence[Config], workers: int, console: Console) -> None:
    """Print what the points of a command will take on `workers` devices like this one."""
    config = configs[0]
    if workers < 1:
        raise UsageError(f"--workers={workers} is too few: use at least 1")
    if config.kb.dir is not None:
        raise UsageError("redi plan looks for the KB that a run would make: leave out kb.dir")
    if any(pipeline_of(one) != pipeline_of(config) for one in configs):
        raise UsageError("redi plan times one model: give one model.path or model.hub_id")
    model = model_from(
        config.model, config.sampling.guidance_scale, config.sampling.negative_prompt
    )
    console.print(f"Timing {_MEASURED} network calls of {model.batch_size} pictures")
    each = seconds_per_call(model)
    plan = planned(configs, model)
    hours = plan.calls * each / 3600
    size = model.pipeline.vae_scale_factor * model.latent_shape[-1]
    table = Table(box=None, show_header=False)
    for name, value in (
        ("points", f"{plan.points}"),
        ("knowledge bases", f"{len(plan.trajectories)}"),
        ("trajectories to make", f"{sum(plan.trajectories.values()):,}"),
        ("disk for them", f"{sum(plan.bytes.values()) / 1e9:.1f} GB"),
        ("network calls to make them", f"{plan.build_calls:,}"),
        ("network calls of the queries", f"{plan.query_calls:,}"),
        ("pictures to decode and measure", f"{plan.pictures:,}"),
        (
            "one call for one picture",
            f"{1000 * each:.2f} ms ({size} pixels, batches of {model.batch_size}, {model.device})",
        ),
        ("hours in the network", f"{hours:.2f} on this device"),
        (f"on {workers} of them", f"{hours / workers:.2f} hours"),
    ):
        table.add_row(name, value)
    console.print(table)
    console.print(
        "Not in it: encoding, decoding, metrics, fits. Everything resumes: the same command goes "
        "on where it was stopped."
    )
    _split(configs[0], max(plan.trajectories.values(), default=0), workers, console)


def _split(config: Config, rows: int, workers: int, console: Console) -> None:
    """The commands that share the knowledge base out among machines or Slurm tasks."""
    if workers == 1 or rows == 0:
        return
    size = config.kb.shard_size
    part = -(-rows // (workers * size)) * size
    console.print(f"\nOn one machine with {workers} GPUs: trainer.devices={workers}. On several,")
    console.print("each makes a part (task I of an array: 0 to " + f"{workers - 1}), then merge:")
    console.print(
        f"  redi kb build ... kb.dir=part-$I kb.first=$((I * {part})) kb.size={part}\n"
        "  redi kb merge kb part-*\n"
        "  redi ... kb.dir=kb hydra/launcher=submitit_slurm hydra.launcher.gpus_per_node=1",
        markup=False,
    )
