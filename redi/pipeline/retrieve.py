"""ReDi as a plan for a pipeline call: at the key step, go on from the neighbours' value step."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from redi.errors import UsageError
from redi.inference import Jumper, Setting
from redi.knowledge_base import KnowledgeBase
from redi.models.identity import Identity, require_same, schedule_identity, stored_shape
from redi.models.meter import now
from redi.pipeline.tally import Summary
from redi.samplers import Sampler, SamplerState


class Retrieval:
    """The published method; a batch jumps together, when every sample's neighbour is near enough.

    Args:
        max_distance: key distance up to which a sample counts as a hit; None: any.
    """

    def __init__(
        self, kb: KnowledgeBase, setting: Setting, max_distance: float | None, summary: Summary
    ) -> None:
        if kb.manifest.identity.get("noise_policy", "shared") == "bank":
            raise UsageError(
                f"the KB {str(kb.root)!r} has several noises (noise.policy=bank) and a pipeline "
                "does not say which one a call starts from: use a KB with one noise"
            )
        if max_distance is not None and not max_distance >= 0:
            raise UsageError(f"max_distance={max_distance} is no distance: use 0 or more")
        self.kb, self.setting, self.max_distance, self.summary = kb, setting, max_distance, summary
        self._jumper: Jumper | None = None
        self._call = Identity({})

    def describe(self, call: Identity) -> None:
        """The setting of the call that comes next."""
        self._call = call

    def prepare(self, sampler: Sampler) -> None:
        require_same(self.kb, self._call | schedule_identity(sampler))
        if self._jumper is None:
            partitions = np.zeros(len(self.kb), np.int64)
            self._jumper = Jumper(sampler, self.kb, partitions, self.setting)

    def begin(self, sampler: Sampler, latents: Tensor) -> None:
        require_same(self.kb, Identity({"latent_shape": list(stored_shape(latents))}))
        self._sampler = sampler
        self.summary.samples += len(latents)

    def count(self, samples: int) -> None:
        self.summary.network_calls += samples

    def after(self, state: SamplerState, prediction: Tensor) -> SamplerState:
        jumper, summary = self._jumper, self.summary
        if state.step != self.setting.key_step or jumper is None:
            return state
        start = now(state.latents.device)
        found = jumper.search.search(state.latents, [0] * len(state), self.setting.neighbours)
        nearest = found.distances[:, 0].tolist()
        summary.distances += nearest
        if self.max_distance is not None and not max(nearest) <= self.max_distance:
            summary.misses += len(state)
            summary.retrieval_seconds += now(state.latents.device) - start
            return state
        landed = jumper.land(state, prediction, found)
        summary.hits += len(state)
        summary.retrieval_seconds += now(state.latents.device) - start
        saved = self._sampler.calls(state.step, landed.step)
        summary.network_calls_saved += saved * len(state)
        return landed
