"""A diffusers scheduler with exact step indexing and explicit state."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from typing import Any

from redi.errors import UsageError
from redi.lazy import Tensor, torch
from redi.samplers.calls import Ask, Calls, drive
from redi.samplers.state import Levels, Predict, SamplerState, StepRecord

RESUME_POLICIES = ("rewarm", "retrieved", "legacy")

#: told of every completed update
Observe = Callable[[StepRecord], None]


class Sampler(ABC):
    """N updates of one deterministic sampler; `state.step` counts the completed ones.

    Subclasses adapt one scheduler family: `restore` writes a state into the scheduler, `capture`
    reads it back. Between the two the arithmetic is the scheduler's own, so a plain run is bit for
    bit what the unmodified diffusers pipeline computes, whoever answers its network calls.

    Args:
        scheduler: a diffusers scheduler on which `set_timesteps` was called.
    """

    #: config name
    name: str
    #: the fewest updates that the scheduler can be set to
    min_steps: int = 1

    def __init__(self, scheduler: Any) -> None:
        self.scheduler, self.num_steps = scheduler, int(scheduler.num_inference_steps)
        #: the scheduler that makes the present update
        self.active = scheduler

    @property
    @abstractmethod
    def levels(self) -> Levels:
        """Levels of the states after 0 .. N updates, as the next call and update take them."""

    @property
    def written(self) -> Levels:
        """Levels that the updates before made the states for: `levels`, but on uneven grids.

        DDIM and PNDM go down by one fixed stride and then take the result for a state at the next
        timestep, which lies elsewhere where the number of steps does not divide that of timesteps.
        """
        return self.levels

    @property
    def history_size(self) -> int:
        """How many tensors an uninterrupted run carries at most."""
        return 0

    @cached_property
    def call_timesteps(self) -> list[tuple[Tensor, ...]]:
        """Per update, the timesteps of its network calls."""
        return [(t,) for t in self.scheduler.timesteps]

    @abstractmethod
    def restore(self, state: SamplerState) -> None:
        """Set every mutable field of the scheduler, so that its next step goes on from `state`."""

    def capture(self, before: SamplerState, latents: Tensor) -> SamplerState:
        """The state after the update that took `before` to `latents`, read from the scheduler."""
        return SamplerState(before.step + 1, latents)

    def call(self, output: Tensor, timestep: Any, latents: Tensor, **options: Any) -> Any:
        """The scheduler's own step for one network call; returns what the scheduler returns."""
        return self.active.step(output, timestep, latents, **options)

    def run(
        self,
        state: SamplerState,
        stop: int | None = None,
        observe: Observe | None = None,
        prompt: str = "own",
    ) -> Calls[SamplerState]:
        """The state after `stop` updates (the end by default); `observe` is told every update."""
        for _ in range(state.step, self.num_steps if stop is None else stop):
            record = yield from self.update(state, prompt)
            state = record.state
            if observe is not None:
                observe(record)
        return state

    def update(self, state: SamplerState, prompt: str = "own") -> Calls[StepRecord]:
        """One update; asks for one call per entry of `call_timesteps[state.step]`.

        Between two calls other runs may use the scheduler, so what it remembers is put away.
        """
        before, latents, predictions = state, state.latents, list[Tensor]()
        held: Any = None
        for number, timestep in enumerate(self.call_timesteps[state.step]):
            ask = Ask(
                latents,
                timestep,
                self.calls(0, state.step) + number,
                self.divisor(state.step, number),
                prompt,
            )
            answer = yield ask
            if number == 0:
                before = replace(state, latents=answer.latents)
                self.restore(before)
            else:
                self._take_up(held)
            noise = self.call_noise(answer.output, answer.latents, state.step, number)
            predictions.append(noise)
            latents = self.call(answer.output, timestep, answer.latents).prev_sample
            held = self._put_away()
        after = replace(self.capture(before, latents), prediction=predictions[-1])
        return StepRecord(after, tuple(predictions))

    def finish(
        self, state: SamplerState, predict: Predict, stop: int | None = None
    ) -> SamplerState:
        """The state after `stop` updates (the end by default), every call answered by `predict`."""
        return drive(self.run(state, stop), predict)

    def records(
        self, state: SamplerState, predict: Predict, stop: int | None = None
    ) -> list[StepRecord]:
        """All updates up to `stop`, every call answered by `predict`."""
        found: list[StepRecord] = []
        drive(self.run(state, stop, found.append), predict)
        return found

    def divisor(self, step: int, number: int) -> Tensor | None:
        """What the network's input is divided by at a call of an update; None: by nothing."""
        return None

    def divisor_at(self, sigma: Tensor) -> Tensor | None:
        """What the network's input is divided by at any level; None: by nothing."""
        return None

    def _put_away(self) -> Any:
        """What the scheduler in use remembers between two calls of one update."""
        memory = vars(self.active)
        return self.active, {k: list(v) if isinstance(v, list) else v for k, v in memory.items()}

    def _take_up(self, held: Any) -> None:
        self.active, memory = held
        vars(self.active).update(memory)

    @property
    def noise_scale(self) -> float:
        """What unit noise is multiplied by where a run starts."""
        return float(self.scheduler.init_noise_sigma)

    def initial(self, noise: Tensor) -> SamplerState:
        """The state before the first update from unit normal noise (B, C, H, W)."""
        return SamplerState(0, noise * self.scheduler.init_noise_sigma)

    def calls(self, start: int, stop: int) -> int:
        """Network calls that the updates `start` .. `stop - 1` are expected to make."""
        return sum(len(timesteps) for timesteps in self.call_timesteps[start:stop])

    def history_after(self, step: int) -> int:
        """How many tensors an uninterrupted run carries after `step` updates."""
        return min(step, self.history_size)

    def history_steps(self, step: int) -> tuple[int | None, ...]:
        """For each tensor carried after `step` updates: None for a prediction, and for a state
        (latents) the number of updates that it is after."""
        return (None,) * self.history_after(step)

    def can_resume(self, step: int, policy: str) -> bool:
        """Whether a jump may land on `step`. Every update can be jumped to unless overridden."""
        return 0 <= step <= self.num_steps

    def check_jump(self, value_step: int, policy: str) -> None:
        """Refuse a value step that no jump can land on; names the nearest ones that can."""
        if self.can_resume(value_step, policy):
            return
        allowed = [s for s in range(1, self.num_steps + 1) if self.can_resume(s, policy)]
        below = [str(s) for s in allowed if s < value_step][-1:]
        above = [str(s) for s in allowed if s > value_step][:1]
        raise UsageError(
            f"retrieval.value_step={value_step} is inside a group of updates that "
            f"sampler={self.name} makes from one starting point: "
            f"use {' or '.join(below + above)}"
        )

    def resume(
        self, step: int, latents: Tensor, policy: str, history: tuple[Tensor, ...] = ()
    ) -> SamplerState:
        """A state at `step` made from latents that this sampler did not compute.

        `rewarm` drops the history and starts the multistep method again at first order;
        `retrieved` continues with the given history (the true one makes the resume exact);
        `legacy` does what a fresh scheduler does, as in the published code.
        """
        if policy not in RESUME_POLICIES:
            known = ", ".join(RESUME_POLICIES)
            raise UsageError(f"retrieval.resume={policy!r} is unknown; use one of {known}")
        self.check_jump(step, policy)
        if policy != "retrieved":
            return SamplerState(step, latents)
        wanted = self.history_after(step)
        if len(history) != wanted:
            raise UsageError(
                f"{self.name} carries {wanted} predictions after step {step}, got {len(history)}: "
                "build the KB with kb.store_history=true or use retrieval.resume=rewarm"
            )
        return SamplerState(step, latents, tuple(history))

    def noise_prediction(self, output: Tensor, latents: Tensor, step: int) -> Tensor:
        """The network output at `latents` of `step` as a noise prediction."""
        return self.call_noise(output, latents, step, 0)

    def call_noise(self, output: Tensor, latents: Tensor, step: int, number: int) -> Tensor:
        """The output of network call `number` of update `step` as a noise prediction."""
        return self.noise_at(output, latents, *self._call_level(step, number))

    def clean(self, output: Tensor, latents: Tensor, alpha: float, sigma: float) -> Tensor:
        """The network output at a level as predicted clean latents."""
        if self.scheduler.config.get("prediction_type") == "flow_prediction":
            return latents - sigma * output  # also where alpha = 0
        return (latents - sigma * self.noise_at(output, latents, alpha, sigma)) / alpha

    def _call_level(self, step: int, number: int) -> tuple[float, float]:
        """`(alpha, sigma)` of the latents that a network call is made on: a later call of an
        update is made on a first guess of its result, unless overridden."""
        at = min(step + number, self.num_steps)
        return float(self.levels.alpha[at]), float(self.levels.sigma[at])

    def noise_at(self, output: Tensor, latents: Tensor, alpha: float, sigma: float) -> Tensor:
        """The network output at a level as a noise prediction."""
        kind = self.scheduler.config.prediction_type
        if kind == "epsilon":
            return output
        if kind == "v_prediction":
            return alpha * output + sigma * latents
        if kind == "sample":
            return (latents - alpha * output) / sigma
        if kind == "flow_prediction":
            return latents + alpha * output
        raise UsageError(f"the model's prediction_type {kind!r} is not supported")


def alpha_levels(scheduler: Any, timesteps: list[int]) -> Levels:
    """Levels of a scheduler that keeps `alphas_cumprod`; a negative timestep means the end."""
    table = scheduler.alphas_cumprod.double()
    final = torch.as_tensor(scheduler.final_alpha_cumprod, dtype=torch.float64)
    squared = torch.stack([table[t] if t >= 0 else final for t in timesteps])
    return Levels(squared.sqrt(), (1 - squared).sqrt())


def sigma_levels(scheduler: Any) -> Levels:
    """Levels of a scheduler that keeps `sigmas` and variance-preserving or flow latents."""
    sigmas = scheduler.sigmas.double().cpu()
    if scheduler.config.get("use_flow_sigmas"):
        return Levels(1 - sigmas, sigmas)
    alpha = 1 / (1 + sigmas.square()).sqrt()
    return Levels(alpha, sigmas * alpha)
