"""The framework's own loop on any pipeline: its network, guided as it does, one call at a time."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from redi.knowledge_base import KnowledgeBase
from redi.methods import Method, Query, Setup
from redi.methods.plain import Full
from redi.models.identity import Identity
from redi.pipeline.networks import Networks
from redi.pipeline.plans import start_of
from redi.pipeline.session import attach, detach
from redi.pipeline.stand_in import StandIn
from redi.samplers import Sampler, drive


class Watch:
    """A plan that changes nothing and notes the sampler and the latents that a call starts with."""

    reference_steps: int | None = None

    def describe(self, call: Identity, generator: Any) -> None: ...

    def prepare(self, sampler: Sampler) -> Method:
        self.sampler = sampler
        return Full().bind(Setup(sampler))

    def begin(self, sampler: Sampler, latents: Tensor) -> Query:
        self.latents = latents.clone()
        return start_of(sampler.noise_scale, latents, [0] * len(latents))

    def finish(self, stand_in: StandIn, networks: Networks) -> None: ...


class OneCall:
    """A scheduler of a single timestep that keeps what the network said."""

    init_noise_sigma = 1.0
    order = 1

    def __init__(self, config: Any, timestep: Tensor) -> None:
        self.config, self.timesteps = config, timestep[None]
        self.sigmas = timestep[None] / 1000  # for cross-attention controls, which nobody uses here

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
    attach(pipe, plan)
    try:
        return plan, pipe(**arguments)
    finally:
        detach(pipe)


def own_loop(
    pipe: Any,
    arguments: dict[str, Any],
    method: Method | None = None,
    kb: KnowledgeBase | None = None,
) -> Tensor:
    """Final latents of a method (full sampling by default) in the framework's own loop."""
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

    setup = Setup(sampler, dict(own.config), kb)
    bound = (Full() if method is None else method).bind(setup)
    return drive(
        bound.run(start_of(sampler.noise_scale, seen.latents, [0] * len(seen.latents))), predict
    )
