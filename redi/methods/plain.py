"""Plain sampling: all calls of one sampler, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from redi.errors import UsageError
from redi.lazy import Tensor
from redi.methods.base import Method, Query, register
from redi.samplers import SAMPLERS, Calls, Sampler, SamplerOptions, build_sampler, check_options
from redi.samplers.converged import converged_sampler


@register
@dataclass
class Full(Method):
    """The KB's own sampler with all its steps: what the other methods are compared with."""

    name = "full"
    title = "full sampling"
    #: what is said: "own", or "early"
    prompt: str = "own"

    def run(self, query: Query) -> Calls[Tensor]:
        start = query.start(self.sampler)
        state = yield from self.sampler.run(start, observe=query.observe, prompt=self.prompt)
        return state.latents


@register
@dataclass
class Switch(Method):
    """Full sampling that says the query's early prompt until the key step."""

    name = "switch"
    title = "full run, style named at the key step"
    key_step: int = 8

    def run(self, query: Query) -> Calls[Tensor]:
        state = query.start(self.sampler)
        state = yield from self.sampler.run(state, self.key_step, prompt="early")
        return (yield from self.sampler.run(state)).latents


@register
@dataclass
class Plain(Method):
    """Some sampler with its own levels and a given number of network calls.

    None takes what the KB's sampler has: its name, or the sampler's default.
    """

    name = "plain"
    title = "a plain sampler"
    own_levels = True
    calls: int = 5
    solver: str | None = None
    order: int | None = None
    timestep_spacing: str | None = None
    use_karras_sigmas: bool | None = None

    @property
    def options(self) -> SamplerOptions:
        return SamplerOptions(self.timestep_spacing, self.order, self.use_karras_sigmas)

    def prepare(self) -> None:
        solver = self.solver or self.setup.sampler.name
        check_options(solver, self.options)
        found = with_calls(solver, self.options, self.setup.schedule, self.calls)
        if found is None:
            raise UsageError(f"sampler={solver} cannot run with {self.calls} network calls")
        self._sampler = found

    @property
    def sampler(self) -> Sampler:
        return self._sampler

    def run(self, query: Query) -> Calls[Tensor]:
        start = query.start(self.sampler)
        return (yield from self.sampler.run(start, observe=query.observe)).latents


@dataclass
class Converged(Plain):
    """The run that stands for the exact solution; `calls` is the most that it makes."""

    name = "converged"
    title = "the converged run"
    calls: int = 250

    def prepare(self) -> None:
        self._sampler = converged_sampler(self.setup.schedule, self.calls)


def with_calls(solver: str, options: SamplerOptions, schedule: Any, calls: int) -> Sampler | None:
    """A sampler with exactly so many network calls on a model's schedule; None: it has none."""
    for steps in range(calls, SAMPLERS[solver].adapter.min_steps - 1, -1):
        sampler = build_sampler(
            solver,
            schedule,
            steps,
            options.timestep_spacing,
            options.order,
            options.use_karras_sigmas,
        )
        if sampler.calls(0, steps) == calls:
            return sampler
    return None
