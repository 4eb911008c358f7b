"""What a method is: a way to spend network calls.

A method asks for network calls and is told their answers (`redi.samplers.calls`). It does not know
who answers: the framework's own loop (`redi.methods.solve`) or a user's pipeline
(`redi.pipeline`). So each method is one small file and works in both.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from redi.errors import UsageError
from redi.knowledge_base import KnowledgeBase
from redi.lazy import Tensor, torch
from redi.models.meter import now
from redi.retrieval import ExactSearch, Found, IndexedSearch
from redi.samplers import Calls, Sampler, SamplerState
from redi.samplers.base import Observe

Say = Callable[[str], None]


@dataclass
class Notes:
    """What a run leaves beside its latents."""

    #: neighbours of each sample, where some were looked up
    found: Found | None = None
    #: latents at the value step (B, C, H, W), NaN for samples that did not jump there; None: the
    #: method jumps to no value step
    at_value: Tensor | None = None
    #: which samples jumped (B,); None: the method never jumps
    hits: Tensor | None = None
    #: network calls that jumps left out, over all samples
    saved: int = 0
    #: seconds that retrieval and corrections took, for the whole batch
    retrieval_seconds: float = 0.0


@dataclass
class Query:
    """One batch that a method is run on."""

    noise: Tensor  #                      (B, C, H, W) unit normal
    #: part of the KB with the same noise, for each sample
    partitions: tuple[int, ...]
    #: number of each sample: what is drawn at random depends on it alone
    indices: tuple[int, ...]
    #: embedding of the prompt that retrieval sees (B, E); None: not known before the first call
    embedding: Tensor | None = None
    #: where a pipeline's own sampler starts (B, C, H, W), and by what it multiplied the noise
    begun: tuple[Tensor, float] | None = None
    observe: Observe | None = None
    notes: Notes = field(default_factory=Notes)

    def __len__(self) -> int:
        return len(self.noise)

    def start(self, sampler: Sampler) -> SamplerState:
        """The state before the first update of a sampler."""
        if self.begun is not None and self.begun[1] == sampler.noise_scale:
            return SamplerState(0, self.begun[0])
        return sampler.initial(self.noise)

    def latents(self, scale: float) -> Tensor:
        """Where a run starts that multiplies unit noise by `scale` (B, C, H, W)."""
        if self.begun is not None and self.begun[1] == scale:
            return self.begun[0]
        return self.noise * scale

    @contextmanager
    def retrieving(self) -> Iterator[None]:
        """Count the seconds of the block as retrieval; a call may not be asked for inside."""
        began = now(self.noise.device)
        yield
        self.notes.retrieval_seconds += now(self.noise.device) - began


@dataclass(frozen=True)
class Setup:
    """What a method is bound to before it runs."""

    #: the sampler of the KB's trajectories and of full runs
    sampler: Sampler
    #: the model's scheduler configuration, on which other samplers are built
    schedule: Mapping[str, Any] = field(default_factory=dict)
    kb: KnowledgeBase | None = None
    #: search by latents at the key step; None: exact search is made where it is needed
    search: ExactSearch | IndexedSearch | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    seed: int = 0

    def needs_kb(self, name: str) -> KnowledgeBase:
        """The KB; refuses to go on without one."""
        if self.kb is None:
            raise UsageError(f"method={name!r} needs a knowledge base: give one")
        return self.kb


class Method(ABC):
    """A way to spend network calls. Fields of the dataclass are what a user may set.

    A method with its settings says nothing of a model. `bind` gives it a sampler and a KB and
    refuses, in one sentence, what cannot work; only then can it run. Several runs may be under way
    at once: what a run knows is in its generator and its query.
    """

    #: what the user writes
    name: ClassVar[str]
    #: one line for people
    title: ClassVar[str]
    #: whether it has few levels of its own: a pipeline is then called with so few steps
    own_levels: ClassVar[bool] = False
    setup: Setup

    def bind(self, setup: Setup) -> Self:
        """A copy that can run; refuses what cannot work before any network call."""
        bound = copy.copy(self)
        bound.setup = setup
        bound.prepare()
        return bound

    def prepare(self) -> None:  # noqa: B027 plain sampling has nothing to prepare
        """Check the settings against `setup`, and make what every run shares."""

    @property
    def sampler(self) -> Sampler:
        """The sampler whose updates the method makes."""
        return self.setup.sampler

    @property
    def noise_scale(self) -> float:
        """What unit noise is multiplied by where the method starts."""
        return self.sampler.noise_scale

    @property
    def first_divisor(self) -> Tensor | None:
        """What the network's input of the first call is divided by; None: by nothing."""
        return self.sampler.divisor(0, 0)

    @property
    def timesteps(self) -> list[Tensor]:
        """What a pipeline's loop goes through: `Ask.position` counts along it."""
        return [timestep for update in self.sampler.call_timesteps for timestep in update]

    @abstractmethod
    def run(self, query: Query) -> Calls[Tensor]:
        """Ask for network calls; returns the final latents (B, C, H, W)."""

    def describe(self) -> dict[str, Any]:
        """The method's columns in the results."""
        return {"method": self.name, "sampler": self.sampler.name, "steps": self.sampler.num_steps}

    def verdict(self, errors: np.ndarray) -> dict[str, Any]:
        """What became of what the method promised, as columns of its point.

        Args:
            errors: relative errors (Q,) of the queries' final latents to their full runs.
        """
        return {}

    def settings(self) -> dict[str, Any]:
        """What was set, as plain values."""
        return asdict(self)  # type: ignore[call-overload]  # every method is a dataclass


class Fitted(Method):
    """A method that is fitted to the trajectories of a KB once; the fit is kept beside it."""

    #: whether it is trained through whole runs, which asks for many more calls than one fit to them
    end_to_end: ClassVar[bool] = False

    @abstractmethod
    def path(self, setup: Setup) -> Path:
        """Where the fit lies, by everything that it depends on."""

    @abstractmethod
    def needed_steps(self, setup: Setup) -> list[int]:
        """Steps of the KB's trajectories whose latents the fit reads."""

    @abstractmethod
    def fitting(self, setup: Setup, start: Tensor, say: Say) -> Calls[None]:
        """Fit and keep; the calls are those of the first `len(ask.latents)` trajectories.

        Args:
            start: latents that the trajectories began with (K, C, H, W), on the CPU.
            say: told of what is done.
        """

    @abstractmethod
    def load(self) -> None:
        """Read the fit of `setup`."""

    def report(self, setup: Setup) -> Any:
        """What people are shown once it is fitted, for a rich console; None: nothing."""
        return None

    def is_fitted(self, setup: Setup) -> bool:
        """Whether nothing is left to fit."""
        return self.path(setup).is_file()

    def prepare(self) -> None:
        if not self.is_fitted(self.setup):
            kb = self.setup.needs_kb(self.name)
            raise UsageError(
                f"method={self.name!r} has not been fitted to the KB {str(kb.root)!r} with these "
                "settings: fit it first"
            )
        self.load()


METHODS: dict[str, type[Method]] = {}


def register(method: type[Method]) -> type[Method]:
    """Class decorator: makes a method known by its name, everywhere."""
    known = METHODS.get(method.name)
    if known is not None and known.__qualname__ != method.__qualname__:
        raise ValueError(f"two methods are called {method.name!r}")
    METHODS[method.name] = method
    return method


def method_called(name: str, told: str = "method") -> type[Method]:
    """The class of a method; `told` is what the user calls it."""
    if name not in METHODS:
        raise UsageError(f"{told}={name!r} is unknown; use one of {', '.join(METHODS)}")
    return METHODS[name]


def make_method(name: str, settings: Mapping[str, Any], told: str = "method") -> Method:
    """A method from its name and settings; refuses settings that it does not have."""
    kind = method_called(name, told)
    known = list(kind.__dataclass_fields__)  # type: ignore[attr-defined]
    for key in settings:
        if key not in known:
            raise UsageError(
                f"{key}={settings[key]!r} does nothing with {told}={name!r}: leave it out, or use "
                f"{', '.join(known)}"
            )
    return kind(**settings)
