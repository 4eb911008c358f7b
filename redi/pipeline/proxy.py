"""What a diffusers pipeline sees in the place of its scheduler, for the time of one call."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor

from redi.errors import UsageError
from redi.samplers import Sampler, SamplerState, adapt
from redi.samplers.build import refuse_noise


class Plan(Protocol):
    """What happens between the updates of one pipeline call."""

    def prepare(self, sampler: Sampler) -> None:
        """The schedule is set and no network was called yet: refuse what cannot work."""
        ...

    def begin(self, sampler: Sampler, latents: Tensor) -> None:
        """The first network call was made on `latents`."""
        ...

    def count(self, samples: int) -> None:
        """One network call for `samples` samples was made."""
        ...

    def after(self, state: SamplerState, prediction: Tensor) -> SamplerState:
        """The state to go on from: the given one, or a later one."""
        ...


class Timesteps(torch.Tensor):
    """The whole schedule, but iterating leaves out what a jump has made needless."""

    walk: Callable[[], Iterator[Tensor]]
    # operations on it give plain tensors
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    def __iter__(self) -> Iterator[Tensor]:
        return self.walk()


class SchedulerProxy:
    """A scheduler whose updates a plan may look at and jump ahead of.

    The wrapped scheduler keeps its full schedule (a shorter one would change its last updates) and
    does all arithmetic; after each update its memory is written by the sampler's `restore`, which
    is the same code that the framework's own loop uses. Everything else is handed through.
    """

    def __init__(self, scheduler: Any, plan: Plan) -> None:
        self._scheduler, self._plan = scheduler, plan
        self._sampler: Sampler | None = None
        self._schedule: Tensor | None = None
        self._yielded: Tensor | None = None
        self._state: SamplerState
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
        return self._scheduler.timesteps if self._schedule is None else self._schedule

    def _set_begin_index(self, begin_index: int = 0) -> None:
        """Refuse runs that start in the middle: they have no key step."""
        if begin_index:
            raise UsageError(
                f"this call starts at step {begin_index} of the schedule (image to image): call "
                "it with redi disabled"
            )
        self._scheduler.set_begin_index(begin_index)

    def _set_timesteps(self, *args: Any, **kwargs: Any) -> None:
        self._scheduler.set_timesteps(*args, **kwargs)
        self._sampler = sampler = adapt(self._scheduler)
        self._plan.prepare(sampler)
        self._calls = [
            (update, number)
            for update, timesteps in enumerate(sampler.call_timesteps)
            for number in range(len(timesteps))
        ]
        self._next = 0
        schedule = self._scheduler.timesteps.as_subclass(Timesteps)
        schedule.walk = self._walk
        self._schedule = schedule

    def _walk(self) -> Iterator[Tensor]:
        at, timesteps = 0, self._scheduler.timesteps
        while at < len(timesteps):
            timestep = self._yielded = timesteps[at]
            yield timestep
            at = max(at + 1, self._next)  # a pipeline that was interrupted makes no more steps

    def _step(self, model_output: Tensor, timestep: Any, sample: Tensor, **options: Any) -> Any:
        refuse_noise(options)
        sampler = self._sampler
        if sampler is None:
            raise UsageError("the pipeline called step before set_timesteps: disable redi for it")
        self._expect(timestep)
        update, number = self._calls[self._next]
        if self._next == 0:
            self._before = SamplerState(0, sample)
            sampler.restore(self._before)
            self._plan.begin(sampler, sample)
        elif number == 0:
            self._before = replace(self._state, latents=sample)  # a callback may have changed it
        self._plan.count(len(sample))
        noise = sampler.call_noise(model_output, sample, update, number)
        result = sampler.call(model_output, timestep, sample, **options)
        self._next += 1
        if number + 1 < len(sampler.call_timesteps[update]):
            return result
        latents = result[0] if isinstance(result, tuple) else result.prev_sample
        state = sampler.capture(self._before, latents)
        self._state = self._plan.after(state, noise)
        if self._state.step < sampler.num_steps:
            sampler.restore(self._state)
        if self._state is state:
            return result
        self._next = sampler.calls(0, self._state.step)
        if isinstance(result, tuple):
            return (self._state.latents, *result[1:])
        result.prev_sample = self._state.latents
        return result

    def _expect(self, timestep: Any) -> None:
        """The pipeline must be where we are; a sliced schedule, for example, would not be."""
        schedule = self._scheduler.timesteps
        if self._next < len(schedule):
            if timestep is self._yielded or float(timestep) == float(schedule[self._next]):
                return
            wanted = float(schedule[self._next])
        else:
            wanted = None
        raise UsageError(
            f"the pipeline stepped at timestep {float(timestep)} where {wanted} comes next (it "
            "runs only a part of its schedule): call it with redi disabled"
        )


def _mimic(original: Callable[..., Any], replacement: Callable[..., Any]) -> Callable[..., Any]:
    """`replacement` with the signature of `original`, which pipelines inspect."""
    signature = inspect.signature(original)

    @functools.wraps(original)
    def call(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)
        return replacement(**bound.arguments)

    return call
