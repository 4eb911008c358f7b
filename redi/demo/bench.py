"""What a demonstration compares on: a model, its sampler and a KB, opened and checked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from redi.config import Config, SamplerConfig
from redi.data.noise import NoisePolicy
from redi.errors import UsageError
from redi.knowledge_base import KnowledgeBase
from redi.knowledge_base.steps import step_group
from redi.methods import Query, Setup
from redi.methods.plain import Full
from redi.methods.solve import solve
from redi.models.identity import schedule_identity
from redi.models.text_to_image import TextToImageModel
from redi.retrieval.opening import open_search
from redi.verbs.adopt import adopt, model_of
from redi.verbs.assemble import noise_from, sampler_from


@dataclass(frozen=True)
class Bench:
    """A model with a KB of it."""

    #: one picture at a time
    model: TextToImageModel
    #: the same in batches as the KB was made, for fits
    batched: TextToImageModel
    setup: Setup
    noise: NoisePolicy
    #: what the KB's sampler was built with
    solver: SamplerConfig

    @property
    def kb(self) -> KnowledgeBase:
        return self.setup.needs_kb("demo")

    def noise_of(self, seed: int) -> tuple[int, int]:
        """Noise id of a seed, and the part of the KB that is searched for it.

        The first seeds are the noises that the KB was made with; all others are new to it.
        """
        if self.noise.policy == "per_prompt":
            return self.noise.query_id(seed), 0
        if seed < self.noise.bank_size:
            noise_id = self.noise.kb_id(seed)
            return noise_id, self.noise.partition(noise_id)
        return self.noise.other_id(seed), 0

    def knows(self, seed: int) -> bool:
        """Whether trajectories of the KB start from this seed's noise."""
        return self.noise_of(seed)[0] in self.kb.noise_ids

    def query(self, prompt: str, seed: int) -> Query:
        """One picture's query."""
        noise_id, part = self.noise_of(seed)
        drawn = self.noise.draw([noise_id], self.model.latent_shape).to(self.model.device)
        return Query(drawn, (part,), (seed,), self.model.encode([prompt]).embedding)


def open_bench(config: Config, kb: KnowledgeBase, say: Callable[[str], None]) -> Bench:
    """Load the model that a KB was made with, and warm it up.

    Raises:
        UsageError: another model or sampler than the KB's, or a KB without a key step.
    """
    config = adopt(config, kb)
    batched, told = model_of(config, kb), config.sampling
    model = TextToImageModel(
        batched.pipeline, told.guidance_scale, told.negative_prompt, 1, config.model.size
    )
    sampler = sampler_from(config, model)
    if other := schedule_identity(sampler).differences(kb.manifest.identity):
        raise UsageError(
            f"kb.dir={str(kb.root)!r} was built with another sampler ({other[0]}): name its "
            "settings, such as sampler.order"
        )
    if kb.key_step is None:
        raise UsageError(f"the KB {str(kb.root)!r} does not say its key step: build it again")
    group, kind = step_group(kb.key_step), config.retrieval.index
    search = open_search(
        kb, group, "latents", kb.partitions, kind, config.retrieval.rebuild_index, say
    )
    setup = Setup(sampler, model.scheduler_config, kb, search, model.device, config.seed)
    bench = Bench(model, batched, setup, noise_from(config), config.sampler)
    say("Warming up the model")
    short = sampler_from(config, model, max(2, sampler.min_steps))
    outcome = solve(
        Full().bind(replace(setup, sampler=short)), bench.query("", 0), model, model.encode([""])
    )
    model.decode(outcome.latents)
    return bench
