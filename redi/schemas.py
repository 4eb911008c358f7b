"""What Hydra checks configurations against; it refuses unknown keys."""

from __future__ import annotations

from functools import cache

from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from redi.config import (
    CalibrateConfig,
    Config,
    CorrectionConfig,
    DataConfig,
    DemoConfig,
    KBConfig,
    LoggerConfig,
    MetricsConfig,
    ModelConfig,
    NoiseConfig,
    RetrievalConfig,
    SamplerConfig,
    TrainerConfig,
)
from redi.embedded.stage_config import TrainConfig
from redi.theory.config import TheoryConfig, TheoryRunConfig

#: what each configuration file in conf/ is checked against
SCHEMAS: dict[str, type] = {
    "run": Config,
    "demo": DemoConfig,
    "train": TrainConfig,
    "theory": TheoryRunConfig,
    "calibrate": CalibrateConfig,
}


def register() -> None:
    """Give Hydra the schemas, and `${by:KEY,{NAME:VALUE}}`, a value that follows another key."""
    from redi.methods import METHODS

    _register_schemas()
    store = ConfigStore.instance()
    known = store.repo.get("methods", {})
    for name in METHODS:
        if f"{name}.yaml" not in known:
            store.store(group="methods", name=name, node={name: METHODS[name]})


@cache
def _register_schemas() -> None:
    OmegaConf.register_new_resolver("by", lambda key, table: table[key], replace=True)
    store = ConfigStore.instance()
    for name, schema in SCHEMAS.items():
        store.store(name=f"base_{name}", node=schema)
    for group, node in {
        "sampler": SamplerConfig,
        "model": ModelConfig,
        "data": DataConfig,
        "noise": NoiseConfig,
        "kb": KBConfig,
        "retrieval": RetrievalConfig,
        "correction": CorrectionConfig,
        "metrics": MetricsConfig,
        "trainer": TrainerConfig,
        "theory": TheoryConfig,
        "logger": LoggerConfig,
    }.items():
        store.store(group=group, name=f"base_{group}", node=node)
