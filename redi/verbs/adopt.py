"""The setting that a KB was built with, taken from the KB."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from redi.config import Config
from redi.errors import UsageError
from redi.knowledge_base import KnowledgeBase
from redi.samplers.catalogue import SAMPLERS
from redi.verbs.assemble import model_from

if TYPE_CHECKING:
    from redi.models.text_to_image import TextToImageModel


def adopt(config: Config, kb: KnowledgeBase) -> Config:
    """The configuration with the setting that the KB was built with."""
    identity = kb.manifest.identity
    try:
        scheduler, kind = identity["scheduler"], SAMPLERS[identity["sampler"]]
        options = {
            key: scheduler.get("solver_order" if key == "order" else key)
            for key in ("timestep_spacing", "order", "use_karras_sigmas")
        }
        options = {key: value if key in kind.options else None for key, value in options.items()}
        return replace(
            config,
            sampler=replace(config.sampler, name=identity["sampler"], **options),
            sampling=replace(
                config.sampling,
                steps=identity["steps"],
                guidance_scale=identity["guidance_scale"],
                negative_prompt=identity["negative_prompt"],
            ),
            model=replace(
                config.model,
                dtype=identity["model_dtype"],
                batch_size=identity["batch_size"],
                channels_last=identity.get("channels_last", False),
                compile=identity.get("compiled", False),
            ),
            noise=replace(
                config.noise,
                policy=identity["noise_policy"],
                bank_size=identity["noise_bank_size"],
                seed=identity["noise_seed"],
            ),
            kb=replace(
                config.kb, key_step=identity["key_step"], key_steps=identity.get("key_steps")
            ),
        )
    except KeyError as error:
        raise UsageError(
            f"the KB {str(kb.root)!r} does not say its {error}: it was not made by 'redi kb build'"
        ) from None


def model_of(config: Config, kb: KnowledgeBase) -> TextToImageModel:
    """The model of an adopted configuration; refuses one that the KB was not built with."""
    sampling = config.sampling
    model = model_from(config.model, sampling.guidance_scale, sampling.negative_prompt)
    if model.identity()["model_hash"] != kb.manifest.identity["model_hash"]:
        raise UsageError(
            f"kb.dir={str(kb.root)!r} was built with another model: name that one with "
            "model=local model.path=DIR"
        )
    return model
