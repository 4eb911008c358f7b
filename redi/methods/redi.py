"""ReDi: jump along retrieved trajectories (Zhang et al., ICML 2023, Algorithm 2)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from redi.errors import UsageError
from redi.lazy import Tensor, torch
from redi.methods.base import Method, Query, register
from redi.methods.conformal import calibrated_distance
from redi.methods.land import Landing
from redi.retrieval import DEFAULT_WEIGHTS, ESTIMATORS, WEIGHTS, ExactSearch, Found
from redi.samplers import RESUME_POLICIES, Calls, SamplerState, together


@register
@dataclass
class ReDi(Method):
    """Sample to the key step, go on from what the nearest trajectories had at the value step.

    Key and value steps count completed updates. A sample whose nearest key is farther than
    `max_distance`, or than a distance that was calibrated on the KB, is a miss: full sampling
    goes on for it, and for it alone.
    """

    name = "redi"
    title = "ReDi"
    #: whether it looks up trajectories of the KB
    retrieves: ClassVar[bool] = True
    #: None: the KB's
    key_step: int | None = None
    #: None: half of all steps are skipped
    value_step: int | None = None
    neighbours: int = 1
    #: paper | transport | delta
    estimator: str = "paper"
    #: least_squares | affine | kernel | softmax | uniform; None: the estimator's own
    weights: str | None = None
    #: rewarm | retrieved | legacy
    resume: str = "rewarm"
    #: key distance up to which a sample jumps; None: any
    max_distance: float | None = None
    #: relative error of the latents at the value step that a jump may make; None: any
    tolerance: float | None = None
    #: share of samples that may jump and exceed the tolerance
    risk: float = 0.1

    def run(self, query: Query) -> Calls[Tensor]:
        key = yield from self.sampler.run(query.start(self.sampler), self._key, prompt="early")
        with query.retrieving():
            found = self.neighbours_of(query, key)
            near = self.near(key, found)
            landed = self.land(key.take(near), found if found is None else found.take(near))
        self.note(query, key, found, near, landed)
        if near.all():
            return (yield from self.sampler.run(landed)).latents
        jumped, missed = self._rest(landed), self._rest(key.take(~near))
        parts = [(near.nonzero()[:, 0], jumped), ((~near).nonzero()[:, 0], missed)]
        return (yield from together([p for p in parts if len(p[0])], key.latents))

    def neighbours_of(self, query: Query, key: SamplerState) -> Found | None:
        """The trajectories to jump along; controls look elsewhere."""
        return self.search.search(key.latents, list(query.partitions), self.neighbours)

    def land(self, key: SamplerState, found: Found | None) -> SamplerState:
        """The state at the value step, estimated from the neighbours'."""
        return self.landing(key, found)

    def near(self, key: SamplerState, found: Found | None) -> Tensor:
        """Which samples jump (B,): those whose nearest key is near enough."""
        if found is None:
            return torch.ones(len(key), dtype=torch.bool)
        return found.distances[:, 0] <= self.threshold  # a distance that is no number is a miss

    def note(
        self,
        query: Query,
        key: SamplerState,
        found: Found | None,
        near: Tensor,
        landed: SamplerState,
    ) -> None:
        """Tell what the jump did."""
        notes = query.notes
        notes.found, notes.hits = found, near
        notes.saved = int(near.sum()) * self.sampler.calls(self._key, landed.step)
        if landed.step == self._value:
            notes.at_value = torch.full_like(key.latents, math.nan)
            notes.at_value[near] = landed.latents

    def _rest(self, state: SamplerState) -> Calls[Tensor]:
        return (yield from self.sampler.run(state)).latents

    # what can be refused, and what every run shares

    def prepare(self) -> None:
        kb = self.setup.needs_kb(self.name)
        self._key, self._value = self.steps_of(kb.key_step, self.sampler.num_steps)
        self.check(self._key, self._value, self.sampler.num_steps)
        self.sampler.check_jump(self._value, self.resume)
        self.landing = Landing(
            self.sampler, kb, self._key, self._value, self.estimator, self.weight_rule, self.resume
        )
        self.search = self.setup.search or ExactSearch(kb.latents(self._key), kb.partitions)
        smallest = self.search.smallest_partition()
        if self.neighbours > smallest:
            raise UsageError(
                f"retrieval.neighbours={self.neighbours} is more than the {smallest} trajectories "
                "to choose from: lower it or raise kb.size"
            )
        self.threshold = math.inf if self.max_distance is None else self.max_distance
        if self.tolerance is not None:
            calibrated = calibrated_distance(
                self.landing, self.search, self.neighbours, self.tolerance, self.risk
            )
            self.threshold = min(self.threshold, calibrated)

    def steps_of(self, kb_key_step: int | None, num_steps: int) -> tuple[int, int]:
        """Key step and value step, where none is given those of the KB and half a run later."""
        key = kb_key_step if self.key_step is None else self.key_step
        if key is None:
            raise UsageError(
                "this KB was recorded without a key step, for corrected sampling alone: record it "
                "with key_step and value_steps"
            )
        half = min(key + num_steps // 2, num_steps)
        return key, half if self.value_step is None else self.value_step

    @property
    def weight_rule(self) -> str:
        return self.weights or DEFAULT_WEIGHTS.get(self.estimator, "affine")

    def check(self, k: int, v: int, num_steps: int) -> None:
        """Refuse what no run can do; one sentence each."""
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
        for name, number in (("max_distance", self.max_distance), ("tolerance", self.tolerance)):
            if number is not None and not number >= 0:
                raise UsageError(
                    f"retrieval.{name}={number} is no distance: use a number from 0, or "
                    "leave it out"
                )
        if self.tolerance is not None and not 0 < self.risk < 1:
            raise UsageError(f"retrieval.risk={self.risk} is no share: use more than 0, below 1")

    def describe(self) -> dict[str, Any]:
        return {
            **super().describe(),
            "key_step": self._key,
            "value_step": self._value,
            "kb_size": len(self.setup.needs_kb(self.name)) if self.retrieves else None,
            "neighbours": self.neighbours if self.retrieves else None,
            "estimator": self.estimator if self.retrieves else None,
            "resume": self.resume,
        }
