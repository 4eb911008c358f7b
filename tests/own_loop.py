"""The framework's own loop on any pipeline: its network, guided as it does, one call at a time."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from redi.inference import Jumper
from redi.pipeline.session import attach, detach
from redi.samplers import Sampler, SamplerState


class Watch:
    """A plan that changes nothing and notes the sampler and the latents that a call starts with."""

    def describe(self, call: dict[str, Any]) -> None: ...

    def prepare(self, sampler: Sampler) -> None:
        self.sampler = sampler

    def begin(self, sampler: Sampler, latents: Tensor) -> None:
        self.latents = latents

    def count(self, samples: int) -> None: ...

    def after(self, state: SamplerState, prediction: Tensor) -> SamplerState:
        return state


class OneCall:
    """A scheduler of a single timestep that keeps what the network said."""

    init_noise_sigma = 1.0
    order = 1

    def __init__(self, config: Any, timestep: Tensor) -> None:
        self.config, self.timesteps = config, timestep[None]

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: Any = None,
        sigmas: Any = None,
        mu: float | None = None,
    ) -> None: ...

    def set_begin_index(self, index: int) -> None: ...

    def scale_model_input(self, sample: Tensor, timestep: Tensor) -> Tensor:
        return sample

    def step(self, output: Tensor, timestep: Tensor, sample: Tensor, return_dict: bool) -> Any:
        self.output = output
        return (sample,)


def watch(pipe: Any, arguments: dict[str, Any]) -> tuple[Watch, Any]:
    """One plain call: its sampler, its first latents, and its result."""
    plan = Watch()
    attach(pipe, plan, plan.describe)
    try:
        return plan, pipe(**arguments)
    finally:
        detach(pipe)


def own_loop(pipe: Any, arguments: dict[str, Any], jumper: Jumper | None = None) -> Tensor:
    """Final latents of the framework's own loop, with a jump where a jumper is given."""
    seen, _ = watch(pipe, arguments)
    sampler, own = seen.sampler, pipe.scheduler

    @torch.no_grad()
    def predict(latents: Tensor, timestep: Tensor) -> Tensor:
        if "prompt" not in arguments:
            return pipe.unet(latents, timestep).sample
        probe = OneCall(own.config, timestep)
        object.__setattr__(pipe, "scheduler", probe)
        try:
            pipe(**{**arguments, "latents": latents})
        finally:
            object.__setattr__(pipe, "scheduler", own)
        return probe.output

    state = SamplerState(0, seen.latents)
    if jumper is None:
        return sampler.finish(state, predict).latents
    for record in sampler.run(state, predict, jumper.setting.key_step):
        state, prediction = record.state, record.predictions[-1]
    rows = [0] * len(state)
    found = jumper.search.search(state.latents, rows, jumper.setting.neighbours)
    return sampler.finish(jumper.land(state, prediction, found), predict).latents
