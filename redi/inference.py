"""The ReDi run and its baselines: where sampler, index and estimator meet."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from redi.errors import UsageError
from redi.knowledge_base import KnowledgeBase, step_group
from redi.models.base import Conditioning, DiffusionModel
from redi.models.meter import now
from redi.retrieval import (
    DEFAULT_WEIGHTS,
    ESTIMATORS,
    WEIGHTS,
    ExactSearch,
    Found,
    IndexedSearch,
    JointSearch,
    Jump,
    straight,
)
from redi.samplers import RESUME_POLICIES, Sampler, SamplerState

#: methods that jump from the key step to the value step, and what they jump with
JUMPS = {
    "redi": "nearest trajectories by latents at the key step",
    "jump": "one straight step, nothing retrieved",
    "random": "trajectories drawn at random",
    "prompt": "nearest trajectories by prompt embedding",
    "both": "nearest trajectories by latents and prompt embedding together",
    "neighbour": "the nearest trajectory's finished picture",
}


@dataclass(frozen=True)
class Cost:
    """What one batch cost: network calls per sample, and seconds for the whole batch."""

    calls: float = 0.0
    network_seconds: float = 0.0
    retrieval_seconds: float = 0.0
    rest_seconds: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.calls + other.calls,
            self.network_seconds + other.network_seconds,
            self.retrieval_seconds + other.retrieval_seconds,
            self.rest_seconds + other.rest_seconds,
        )


class Stopwatch:
    """Cost between its creation and `stop`, from the model's own meter and the wall clock."""

    def __init__(self, model: DiffusionModel) -> None:
        self.model = model
        self.calls, self.network = model.meter.snapshot()
        self.start = now(model.meter.device)

    def stop(self, samples: int, retrieval_seconds: float = 0.0) -> Cost:
        total = now(self.model.meter.device) - self.start
        calls, network = self.model.meter.snapshot()
        spent = network - self.network
        rest = total - spent - retrieval_seconds
        return Cost((calls - self.calls) / samples, spent, retrieval_seconds, rest)


@dataclass(frozen=True)
class Outcome:
    """Result of one method on one batch."""

    latents: Tensor  # (B, C, H, W) final
    cost: Cost
    #: latents at the value step, where the method passes through one
    at_value: Tensor | None = None
    found: Found | None = None
    #: latents after each watched step (full runs)
    watched: dict[int, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Setting:
    """Where and how to jump. `weights` of None means the estimator's default."""

    key_step: int
    value_step: int
    neighbours: int = 1
    estimator: str = "paper"
    weights: str | None = None
    resume: str = "rewarm"

    def check(self, num_steps: int) -> None:
        """Refuse what no run can do; one sentence each."""
        k, v = self.key_step, self.value_step
        if k < 1:
            raise UsageError(f"kb.key_step={k} is too small: use at least 1")
        if v > num_steps:
            raise UsageError(
                f"retrieval.value_step={v} is past sampling.steps={num_steps}: "
                f"use a value from {k + 1} to {num_steps}"
            )
        if k >= v:
            raise UsageError(
                f"kb.key_step={k} must come before retrieval.value_step={v}: "
                "lower the key step or raise the value step"
            )
        if self.neighbours < 1:
            raise UsageError(f"retrieval.neighbours={self.neighbours} is too small: use at least 1")
        for name, value, known in (
            ("estimator", self.estimator, tuple(ESTIMATORS)),
            ("weights", self.weight_rule, tuple(WEIGHTS)),
            ("resume", self.resume, RESUME_POLICIES),
        ):
            if value not in known:
                raise UsageError(
                    f"retrieval.{name}={value!r} is unknown; use one of {', '.join(known)}"
                )

    @property
    def weight_rule(self) -> str:
        return self.weights or DEFAULT_WEIGHTS.get(self.estimator, "affine")


@dataclass(frozen=True)
class Prefix:
    """A query batch after the key step: what every jumping method starts from."""

    state: SamplerState
    prediction: Tensor  # (B, C, H, W) last noise prediction before the key step
    conditioning: Conditioning
    partitions: list[int]
    indices: list[int]
    cost: Cost
    #: what the remaining updates are asked for, where that is something else
    afterwards: Conditioning | None = None


def run_plain(
    model: DiffusionModel,
    sampler: Sampler,
    conditioning: Conditioning,
    noise: Tensor,
    watch: tuple[int, ...] = (),
) -> Outcome:
    """All updates of the sampler from unit noise; keeps the latents after the watched steps."""
    watch_time = Stopwatch(model)
    state, watched = sampler.initial(noise), {}
    for record in sampler.run(state, model.predictor(conditioning)):
        state = record.state
        if state.step in watch:
            watched[state.step] = state.latents
    return Outcome(state.latents, watch_time.stop(len(conditioning)), watched=watched)


class Jumper:
    """From the key step to the value step along retrieved trajectories; calls no network."""

    def __init__(
        self,
        sampler: Sampler,
        kb: KnowledgeBase,
        partitions: np.ndarray,
        setting: Setting,
        search: ExactSearch | IndexedSearch | None = None,
    ) -> None:
        setting.check(sampler.num_steps)
        sampler.check_jump(setting.value_step, setting.resume)
        self.sampler, self.kb, self.setting = sampler, kb, setting
        self.key_group, self.value_group = map(step_group, (setting.key_step, setting.value_step))
        stored = sorted(int(g[5:]) for g in kb.manifest.groups if g.startswith("step_"))
        if setting.key_step not in stored or not kb.has(self.key_group, "prediction"):
            raise UsageError(f"kb.key_step={setting.key_step} is not the key step of this KB")
        if setting.value_step not in stored:
            others = ", ".join(str(s) for s in stored if s > setting.key_step)
            raise UsageError(
                f"retrieval.value_step={setting.value_step} is not stored in the KB "
                f"(stored: {others}): use one of these or build with kb.value_steps"
            )
        needs_history = setting.resume == "retrieved" and sampler.history_after(setting.value_step)
        if needs_history and not kb.has(self.value_group, "history"):
            raise UsageError(
                "retrieval.resume=retrieved needs the predictions of the stored trajectories: "
                "build the KB with kb.store_history=true or use retrieval.resume=rewarm"
            )
        self.search = search or ExactSearch(kb.column(self.key_group, "latents"), partitions)
        smallest = self.search.smallest_partition()
        if setting.neighbours > smallest:
            raise UsageError(
                f"retrieval.neighbours={setting.neighbours} is more than the {smallest} "
                "trajectories to choose from: lower it or raise kb.size"
            )

    def land(self, state: SamplerState, prediction: Tensor, found: Found | None) -> SamplerState:
        """The state at the value step estimated from what was found; without it, straight on.

        `prediction` is the last noise prediction before the key step, of the latents' shape.
        """
        v = self.setting.value_step
        if found is None:
            nobody = torch.empty(len(state), 0)
            jump = self._borrow(state, prediction, Found(nobody.long(), nobody.double()))
            return self._resume(v, straight(jump), state, None, None)
        jump = self._borrow(state, prediction, found)
        estimate = ESTIMATORS[self.setting.estimator](jump)
        return self._resume(v, estimate, state, found, jump.weights)

    def _borrow(self, state: SamplerState, prediction: Tensor, found: Found) -> Jump:
        """The jump in normalised float64 variables, where re-inserting a trajectory is exact."""
        k, v = self.setting.key_step, self.setting.value_step
        alpha, rho = self.sampler.levels.alpha, self.sampler.levels.rho
        rows, latent_shape = found.rows, self._stored_shape()
        query = state.latents.double().cpu().reshape(len(state), *latent_shape)
        shape = (*rows.shape, *latent_shape)
        if rows.shape[1]:
            keys = self.kb.gather(self.key_group, "latents", rows).double()
            values = self.kb.gather(self.value_group, "latents", rows).double()
            predictions = self.kb.gather(self.key_group, "prediction", rows).double()
            weights = WEIGHTS[self.setting.weight_rule](query.flatten(1), keys.flatten(2))
        else:
            keys = values = predictions = torch.zeros(shape, dtype=torch.float64)
            weights = torch.zeros(rows.shape, dtype=torch.float64)
        return Jump(
            query_key=query / alpha[k],
            query_prediction=prediction.double().cpu().reshape(query.shape),
            keys=keys / alpha[k],
            predictions=predictions,
            values=values / alpha[v],
            weights=weights,
            stride=float(rho[v] - rho[k]),
        )

    def _stored_shape(self) -> tuple[int, ...]:
        """Shape of one row of latents in the KB: the latents' own, or (1, S, C) for tokens."""
        columns = self.kb.manifest.groups[self.key_group]
        return next(column.shape for column in columns if column.name == "latents")

    def _resume(
        self,
        step: int,
        normalised: Tensor,
        key: SamplerState,
        found: Found | None,
        weights: Tensor | None,
    ) -> SamplerState:
        like = key.latents
        latents = (normalised * self.sampler.levels.alpha[step]).to(like).reshape(like.shape)
        policy = self.setting.resume
        history: tuple[Tensor, ...] = ()
        if policy == "retrieved":
            if found is None or weights is None:
                policy = "rewarm"  # nothing was retrieved, so there is no history to take over
            elif self.sampler.history_after(step):
                stored = self.kb.gather(step_group(step), "history", found.rows).double()
                combined = (weights[:, :, None, None, None, None] * stored).sum(1).to(like)
                history = tuple(item.reshape(like.shape) for item in combined.unbind(1))
        return self.sampler.resume(step, latents, policy, history)


class ReDi(Jumper):
    """Trajectory retrieval on one model, sampler and knowledge base (ReDi, Algorithms 1 and 2)."""

    def __init__(
        self,
        model: DiffusionModel,
        sampler: Sampler,
        kb: KnowledgeBase,
        partitions: np.ndarray,
        setting: Setting,
        seed: int = 0,
        search: ExactSearch | IndexedSearch | None = None,
    ) -> None:
        super().__init__(sampler, kb, partitions, setting, search)
        self.model, self.seed, self.partitions = model, seed, partitions

    @cached_property
    def prompt_search(self) -> ExactSearch:
        """Search by prompt embedding in the place of latents."""
        return ExactSearch(self.kb.column("prompt", "embedding"), self.partitions)

    @cached_property
    def joint_search(self) -> JointSearch:
        """Both keys at once, each scaled to the spread that it has in the KB."""
        latents = self.kb.column(self.key_group, "latents")
        return JointSearch(latents, self.kb.column("prompt", "embedding"), self.partitions)

    def start(
        self,
        conditioning: Conditioning,
        noise: Tensor,
        partitions: list[int],
        indices: list[int],
        afterwards: Conditioning | None = None,
    ) -> Prefix:
        """Run the first `key_step` updates with the query's own prompt.

        Retrieval sees that prompt too; `afterwards` replaces it once the jump is made.
        """
        watch = Stopwatch(self.model)
        state, prediction = self.sampler.initial(noise), noise
        predict = self.model.predictor(conditioning)
        for record in self.sampler.run(state, predict, self.setting.key_step):
            state, prediction = record.state, record.predictions[-1]
        cost = watch.stop(len(conditioning))
        return Prefix(state, prediction, conditioning, partitions, indices, cost, afterwards)

    def finish(self, prefix: Prefix, method: str = "redi") -> Outcome:
        """Jump from the key step with one of `JUMPS` and sample the remaining updates."""
        watch = Stopwatch(self.model)
        found, state = self._jump(prefix, method)
        retrieval = now(self.model.meter.device) - watch.start
        at_value = None if method == "neighbour" else state.latents
        if state.step < self.sampler.num_steps:
            asked = prefix.afterwards or prefix.conditioning
            state = self.sampler.finish(state, self.model.predictor(asked))
        cost = prefix.cost + watch.stop(len(prefix.state), retrieval)
        return Outcome(state.latents, cost, at_value, found)

    def find(self, prefix: Prefix, method: str) -> Found:
        """The neighbours that a method jumps with."""
        count = 1 if method == "neighbour" else self.setting.neighbours
        if method == "prompt":
            return self.prompt_search.search(
                prefix.conditioning.embedding, prefix.partitions, count
            )
        if method == "both":
            return self.joint_search.search(
                prefix.state.latents, prefix.conditioning.embedding, prefix.partitions, count
            )
        nearest = self.search.search(prefix.state.latents, prefix.partitions, count)
        return self._drawn(prefix, count) if method == "random" else nearest

    def _drawn(self, prefix: Prefix, count: int) -> Found:
        rows = []
        for index, part in zip(prefix.indices, prefix.partitions, strict=True):
            rng = np.random.default_rng([self.seed, 23, index])
            rows.append(rng.choice(self.search.members[part], count, replace=False))
        chosen = torch.from_numpy(np.stack(rows))
        gaps = self.search.keys[chosen].double() - prefix.state.latents.cpu().flatten(1)[:, None]
        return Found(chosen, gaps.norm(dim=-1))

    def _jump(self, prefix: Prefix, method: str) -> tuple[Found | None, SamplerState]:
        if method not in JUMPS:
            raise UsageError(f"method {method!r} is unknown; use one of {', '.join(JUMPS)}")
        if method == "jump":
            return None, self.land(prefix.state, prefix.prediction, None)
        found = self.find(prefix, method)
        if method == "neighbour":
            last = self.sampler.num_steps
            finished = self.kb.gather(step_group(last), "latents", found.rows)[:, 0]
            return found, SamplerState(last, finished.to(prefix.state.latents))
        return found, self.land(prefix.state, prefix.prediction, found)
