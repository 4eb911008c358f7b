"""What a diffusers pipeline sees in the place of its scheduler, for the time of one call.

It answers the calls of a method with the pipeline's own network calls. The pipeline's loop goes
through its whole schedule; steps that the method does not ask for are gone through without their
networks (`Networks.skipping`). So a counter, a window over steps or a callback of the pipeline or
of another library is right, and so is everything that it reads of the schedule.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import torch
from diffusers.schedulers.scheduling_utils import SchedulerOutput
from torch import Tensor

from redi.errors import UsageError
from redi.methods import Method, Query
from redi.pipeline.networks import Networks
from redi.samplers import Answer, Ask, Calls, Sampler, adapt
from redi.samplers.build import even_levels, refuse_noise, set_as_told


class Plan(Protocol):
    """What a pipeline is to do in one call."""

    @property
    def reference_steps(self) -> int | None:
        """Steps of the sampler that the method is bound to; None: as many as the call says."""
        ...

    def prepare(self, sampler: Sampler) -> Method:
        """The method of the call, bound; refuses what cannot work before any network call."""
        ...

    def begin(self, sampler: Sampler, latents: Tensor) -> Query:
        """The query that starts from the pipeline's first latents (B, C, H, W)."""
        ...


class StandIn:
    """A scheduler that lets a method run on the pipeline's networks.

    The wrapped scheduler is a copy of the pipeline's; the sampler's `restore` writes its memory, as
    in the framework's own loop, and it does all arithmetic.
    """

    def __init__(self, scheduler: Any, plan: Plan, networks: Networks) -> None:
        self._scheduler, self._plan, self._networks = scheduler, plan, networks
        self._timesteps: Tensor | None = None
        self._method: Method | None = None
        self._run: Calls[Tensor] | None = None
        self._ask: Ask | None = None
        self._at = 0
        self.query: Query | None = None
        #: rows that the method asked for, over all calls
        self.asked = 0
        self.set_timesteps = _mimic(scheduler.set_timesteps, self._set_timesteps)
        self.step = _mimic(scheduler.step, self._step)
        if hasattr(scheduler, "set_begin_index"):  # pipelines ask whether it is there
            self.set_begin_index = self._set_begin_index

    def __getattr__(self, name: str) -> Any:
        return getattr(self._scheduler, name)

    def __len__(self) -> int:
        return len(self._scheduler)

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        return type(self._scheduler)

    @property
    def timesteps(self) -> Tensor:
        """The schedule that the pipeline's loop goes through, whoever reads it."""
        return self._scheduler.timesteps if self._timesteps is None else self._timesteps

    @property
    def init_noise_sigma(self) -> Any:
        """What a pipeline multiplies its noise by: the method's start."""
        own = self._scheduler.init_noise_sigma
        return own if self._method is None or own == self._scale else self._scale

    @property
    def _scale(self) -> float:
        assert self._method is not None
        return self._method.noise_scale

    def scale_model_input(self, sample: Tensor, timestep: Any = None) -> Tensor:
        """What the network sees of the pipeline's latents, once or twice the batch."""
        assert self._method is not None
        self._scaled = True
        divisor = self._method.first_divisor if self._run is None else self._divisor
        return sample if divisor is None else sample / divisor

    def _set_begin_index(self, begin_index: int = 0) -> None:
        """Refuse runs that start in the middle: they have no key step."""
        if begin_index:
            raise UsageError(
                f"this call starts at step {begin_index} of the schedule (image to image): call "
                "it with redi disabled"
            )
        self._scheduler.set_begin_index(begin_index)

    def _set_timesteps(self, *args: Any, **kwargs: Any) -> None:
        steps, told = self._plan.reference_steps, 0
        if steps is None:
            self._scheduler.set_timesteps(*args, **kwargs)
        else:
            told, mu, even = _only_count(kwargs)
            set_as_told(self._scheduler, steps, mu, even, kwargs.get("device"))
        self._sampler = adapt(self._scheduler)
        self._method = method = self._plan.prepare(self._sampler)
        schedule = method.timesteps
        if steps is not None and told != len(schedule):
            raise UsageError(
                f"num_inference_steps={told}, and the pipeline is enabled for {len(schedule)} "
                "calls: call it so, or enable it for another number"
            )
        reference = method.setup.sampler
        self._scheduler = reference.scheduler  # the one whose memory the method writes
        self.full_calls = reference.calls(0, reference.num_steps)
        own = self._scheduler.timesteps
        self._timesteps = own if steps is None else torch.stack(schedule).to(own.device)
        self._run = self._ask = None
        self._at, self._scaled = 0, False
        self._networks.begin_step(skipping=False)

    def _start(self, sample: Tensor) -> None:
        """Begin the method's run from the latents that the pipeline prepared."""
        assert self._method is not None
        self._shown = sample.clone()
        self.query = self._plan.begin(self._sampler, sample)
        self._run = self._method.run(self.query)
        self._go_on(lambda run: next(run))

    def _go_on(self, step: Callable[[Calls[Tensor]], Ask]) -> None:
        """Take the next wish of the method, or its result."""
        assert self._run is not None
        try:
            self._ask = step(self._run)
        except StopIteration as end:
            self._ask, self._final = None, end.value

    @property
    def _wanted(self) -> Ask | None:
        """The call that the method asks for at this step of the pipeline's loop."""
        here = self._ask is not None and self._ask.position == self._at
        return self._ask if here else None

    @property
    def _divisor(self) -> Tensor | None:
        return None if self._wanted is None else self._wanted.divisor

    def _current(self, sample: Tensor) -> Tensor:
        """The method's latents, or the pipeline's where a callback has changed them."""
        if torch.equal(sample, self._shown):
            return self._final if self._ask is None else self._ask.latents
        return sample

    def _step(self, model_output: Tensor, timestep: Any, sample: Tensor, **options: Any) -> Any:
        refuse_noise(options)
        self._expect(timestep)
        if self._run is None:
            self._start(sample)
        ask, latents = self._wanted, self._current(sample)
        if ask is not None:
            self._answer(ask, latents, model_output)
        elif self._ask is not None:
            self._ask = replace(self._ask, latents=latents)
        else:
            self._final = latents
        self._at += 1
        self._scaled = False
        self._networks.begin_step(skipping=self._wanted is None)
        following = self._final if self._ask is None else self._ask.latents
        self._shown = following.clone()
        if options.get("return_dict", True):
            return SchedulerOutput(prev_sample=following.clone())
        return (following.clone(),) * 2  # PixArt-alpha takes the second after a single step

    def _answer(self, ask: Ask, latents: Tensor, output: Tensor) -> None:
        if ask.divisor is not None and not self._scaled:
            raise UsageError(
                "the method's sampler shows the network scaled latents, and this pipeline does not "
                "scale them: use a method with another sampler"
            )
        assert self.query is not None
        if self.query.embedding is None and self._networks.embedding is not None:
            self.query.embedding = self._networks.embedding[-len(latents) :]
        self.asked += len(latents) if ask.rows is None else len(ask.rows)
        guidance = self._networks.guidance(output) if ask.guidance else None
        answer = Answer(latents, output, guidance)
        self._go_on(lambda run: run.send(answer))

    def _expect(self, timestep: Any) -> None:
        """The pipeline must be where we are; a sliced schedule, for example, would not be."""
        schedule = self.timesteps
        wanted = float(schedule[self._at]) if self._at < len(schedule) else None
        if wanted is None or float(timestep) != wanted:
            raise UsageError(
                f"the pipeline stepped at timestep {float(timestep)} where {wanted} comes next (it "
                "runs only a part of its schedule): call it with redi disabled"
            )


def _only_count(kwargs: dict[str, Any]) -> tuple[int, float | None, bool]:
    """The wanted number of steps, where the call names nothing else of its schedule.

    Pipelines of flow models name even levels and their shift, which a user did not choose: the
    shift, and whether the levels are named, come with the number.
    """
    count, sigmas, mu = (kwargs.get(name) for name in ("num_inference_steps", "sigmas", "mu"))
    even = False
    if sigmas is not None:
        even = np.allclose(sigmas, even_levels(len(sigmas)), rtol=0, atol=1e-12)
        count = len(sigmas) if count is None else count
    own = ("num_inference_steps", "mu", "device", *(["sigmas"] if even else []))
    if count is None or any(v is not None for k, v in kwargs.items() if k not in own):
        raise UsageError(
            "this call chooses its own timesteps or sigmas, and the method has its own: give "
            "num_inference_steps alone"
        )
    return int(count), mu, even


def _mimic(original: Callable[..., Any], replacement: Callable[..., Any]) -> Callable[..., Any]:
    """`replacement` with the signature of `original`, which pipelines inspect."""
    signature = inspect.signature(original)

    @functools.wraps(original)
    def call(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)
        return replacement(**bound.arguments)

    return call
