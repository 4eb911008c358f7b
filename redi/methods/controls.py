"""Controls of ReDi: each changes one thing about it, and tells what that thing is worth."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np

from redi.errors import UsageError
from redi.knowledge_base import KnowledgeBase
from redi.lazy import Tensor, functional, torch
from redi.methods.base import Query, register
from redi.methods.redi import ReDi
from redi.retrieval import ExactSearch, Found, JointSearch
from redi.samplers import SamplerState


@register
@dataclass
class StraightJump(ReDi):
    """The same jump with nothing retrieved: one straight step with the last prediction."""

    name = "jump"
    title = "one-step jump, no retrieval"
    retrieves = False

    def neighbours_of(self, query: Query, key: SamplerState) -> None:
        return None


@register
@dataclass
class RandomNeighbour(ReDi):
    """Trajectories drawn at random from the query's noise."""

    name = "random"
    title = "random neighbour"

    def neighbours_of(self, query: Query, key: SamplerState) -> Found:
        rows = []
        for index, part in zip(query.indices, query.partitions, strict=True):
            rng = np.random.default_rng([self.setup.seed, 23, index])
            rows.append(rng.choice(self.search.members[part], self.neighbours, replace=False))
        chosen = torch.from_numpy(np.stack(rows))
        gaps = self.search.keys[chosen].double() - key.latents.cpu().flatten(1)[:, None]
        return Found(chosen, gaps.norm(dim=-1))


@register
@dataclass
class ByPrompt(ReDi):
    """Nearest trajectories by prompt embedding in the place of latents."""

    name = "prompt"
    title = "prompt-embedding neighbour"

    def prepare(self) -> None:
        super().prepare()
        kb = self.setup.needs_kb(self.name)
        self.by_prompt = ExactSearch(embeddings(kb, self.name), kb.partitions)

    def neighbours_of(self, query: Query, key: SamplerState) -> Found:
        told = embedding(query, self.name)
        return self.by_prompt.search(told, list(query.partitions), self.neighbours)


@register
@dataclass
class Both(ReDi):
    """Nearest trajectories by latents and prompt embedding together."""

    name = "both"
    title = "neighbour by latents and prompt"

    def prepare(self) -> None:
        super().prepare()
        kb = self.setup.needs_kb(self.name)
        told = embeddings(kb, self.name)
        self.jointly = JointSearch(kb.latents(self._key), told, kb.partitions)

    def neighbours_of(self, query: Query, key: SamplerState) -> Found:
        return self.jointly.search(
            key.latents, embedding(query, self.name), list(query.partitions), self.neighbours
        )


class _ByOther(ReDi):
    """Nearest trajectories by something else that is known at the key step."""

    @abstractmethod
    def keys_of(self, latents: Tensor, prediction: Tensor) -> Tensor:
        """Keys (B, D) from latents and last noise prediction (B, C, H, W) at the key step."""

    def prepare(self) -> None:
        super().prepare()
        kb = self.setup.needs_kb(self.name)
        keys = self.keys_of(kb.latents(self._key), kb.prediction(self._key))
        self.by_other = ExactSearch(keys, kb.partitions)

    def neighbours_of(self, query: Query, key: SamplerState) -> Found:
        assert key.prediction is not None  # the key step comes after an update
        shape = self.setup.needs_kb(self.name).latent_shape
        here = [t.cpu().reshape(-1, *shape) for t in (key.latents, key.prediction)]
        return self.by_other.search(self.keys_of(*here), list(query.partitions), self.neighbours)


@register
@dataclass
class ByClean(_ByOther):
    """Nearest trajectories by the clean latents that are predicted at the key step."""

    name = "clean"
    title = "neighbour by predicted clean latents"

    def keys_of(self, latents: Tensor, prediction: Tensor) -> Tensor:
        levels = self.sampler.levels
        alpha, rho = float(levels.alpha[self._key]), float(levels.rho[self._key])
        return (latents.double() / alpha - rho * prediction.double()).float().flatten(1)


@register
@dataclass
class ByCoarse(_ByOther):
    """Nearest trajectories by the latents' low frequencies: means of 4 x 4 patches."""

    name = "coarse"
    title = "neighbour by low frequencies"

    def keys_of(self, latents: Tensor, prediction: Tensor) -> Tensor:
        return functional.avg_pool2d(latents.float(), 4, ceil_mode=True).flatten(1)


@register
@dataclass
class NeighbourImage(ReDi):
    """The nearest trajectory's finished picture in the place of the query's own."""

    name = "neighbour"
    title = "neighbour's own image"

    def neighbours_of(self, query: Query, key: SamplerState) -> Found:
        return self.search.search(key.latents, list(query.partitions), 1)

    def land(self, key: SamplerState, found: Found | None) -> SamplerState:
        assert found is not None
        last = self.sampler.num_steps
        finished = self.setup.needs_kb(self.name).latents(last, found.rows)[:, 0]
        return SamplerState(last, finished.to(key.latents).reshape(key.latents.shape))

    def describe(self) -> dict[str, Any]:
        nothing = dict.fromkeys(("value_step", "estimator", "resume"))
        return {**super().describe(), **nothing, "neighbours": 1}


def embeddings(kb: KnowledgeBase, name: str) -> Tensor:
    """Prompt embeddings of all trajectories (K, E)."""
    if not kb.has("prompt", "embedding"):
        raise UsageError(
            f"the KB {str(kb.root)!r} stores no prompt embeddings, which method={name!r} "
            "compares: use another method, or record the KB again"
        )
    return kb.embeddings()


def embedding(query: Query, name: str) -> Tensor:
    """Prompt embeddings of a batch (B, E)."""
    if query.embedding is None:
        raise UsageError(
            f"method={name!r} compares prompt embeddings, and this pipeline's network is told "
            "none: use another method"
        )
    return query.embedding
