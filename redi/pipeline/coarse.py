"""Schedulers that visit a few levels of a reference sampler: with corrections, or to look once."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.schedulers.scheduling_utils import SchedulerOutput
from torch import Tensor

from redi.errors import UsageError
from redi.methods.corrected import Correction
from redi.methods.corrected.base import Visit
from redi.methods.corrected.plan import Plan
from redi.models.identity import Identity, require_same, schedule_identity, stored_shape
from redi.models.meter import now
from redi.pipeline.proxy import SchedulerProxy
from redi.pipeline.tally import Summary
from redi.samplers import Sampler, SamplerState, adapt
from redi.samplers.build import refuse_noise

#: samplers whose latents and network input are the same thing at every level
SUPPORTED = ("ddim", "dpm_solver", "dpm_solver_pp", "deis", "unipc")


class CoarseProxy(SchedulerProxy):
    """A scheduler that takes `correction`'s few steps; the state is kept in float64 between them.

    The wrapped scheduler is set to the reference's schedule, from which levels and timesteps come.
    """

    _plan: Corrected

    def _set_timesteps(self, *args: Any, **kwargs: Any) -> None:
        wanted, device = _only_count(kwargs), kwargs.get("device")
        coarse = self._plan.correction.plan
        if wanted != coarse.calls:
            raise UsageError(
                f"num_inference_steps={wanted}, and the pipeline is enabled for {coarse.calls} "
                "corrected steps: call it so, or enable it for another number"
            )
        sampler = _reference(self._scheduler, coarse.sampler.num_steps, device)
        self._plan.prepare(sampler)
        self._schedule = torch.stack([coarse.timestep(i) for i in range(coarse.calls)]).to(device)
        self._visits: list[Visit] = []
        self._y: Tensor | None = None
        self._given: Tensor | None = None

    def _step(self, model_output: Tensor, timestep: Any, sample: Tensor, **options: Any) -> Any:
        refuse_noise(options)
        told = options.get("return_dict", True)
        coarse, level = self._plan.correction.plan, len(self._visits)
        if level >= coarse.calls or int(timestep) != int(coarse.timestep(level)):
            raise UsageError(
                f"the pipeline stepped at timestep {int(timestep)} out of turn (it runs only a "
                "part of its schedule): call it with redi disabled"
            )
        if level == 0:
            self._plan.begin(coarse.sampler, sample)
        self._plan.count(len(sample))
        alpha = coarse.alpha
        if self._y is None or sample is not self._given:  # a callback may have changed it
            self._y = sample.double() / float(alpha[level])
        noise = coarse.sampler.noise_prediction(model_output, sample, coarse.steps[level])
        self._visits.append(Visit(float(coarse.rho[level]), self._y, noise.double()))
        self._y = self._plan.step(level, self._visits)
        self._given = (self._y * float(alpha[level + 1])).to(sample.dtype)
        return SchedulerOutput(prev_sample=self._given) if told else (self._given,)


class ProbeProxy(SchedulerProxy):
    """A scheduler of one level: the network is called there once and nothing is stepped."""

    _plan: Probe

    def _set_timesteps(self, *args: Any, **kwargs: Any) -> None:
        _only_count(kwargs)
        plan, device = self._plan.plan, kwargs.get("device")
        sampler = _reference(self._scheduler, plan.sampler.num_steps, device)
        self._plan.prepare(sampler)
        self._schedule = plan.timestep(self._plan.level)[None].to(device)

    def _step(self, model_output: Tensor, timestep: Any, sample: Tensor, **options: Any) -> Any:
        refuse_noise(options)
        plan, level = self._plan.plan, self._plan.level
        noise = plan.sampler.noise_prediction(model_output, sample, plan.steps[level])
        self._plan.seen = sample, noise
        told = options.get("return_dict", True)
        return SchedulerOutput(prev_sample=sample) if told else (sample,)


class _Quiet:
    """What the published method's plan is asked between updates, and these are not."""

    def __init__(self, kb: Any) -> None:
        self.kb, self._call = kb, Identity({})

    def describe(self, call: Identity) -> None:
        """The setting of the call that comes next."""
        self._call = call

    def prepare(self, sampler: Sampler) -> None:
        require_same(self.kb, self._call | schedule_identity(sampler))

    def begin(self, sampler: Sampler, latents: Tensor) -> None:
        require_same(self.kb, Identity({"latent_shape": list(stored_shape(latents))}))

    def count(self, samples: int) -> None:
        """Nothing is counted."""

    def after(self, state: SamplerState, prediction: Tensor) -> SamplerState:
        return state


class Probe(_Quiet):
    """Looks at the network's prediction at one level of a plan."""

    proxy = ProbeProxy

    def __init__(self, kb: Any, plan: Plan) -> None:
        super().__init__(kb)
        self.plan, self.level = plan, 0
        self.seen: tuple[Tensor, Tensor]  # latents and noise prediction (B, C, H, W)


class Corrected(_Quiet):
    """Retrieval-corrected sampling as a plan for a pipeline call."""

    proxy = CoarseProxy

    def __init__(self, kb: Any, correction: Correction, summary: Summary) -> None:
        super().__init__(kb)
        self.correction, self.summary = correction, summary
        self._device: torch.device | None = None

    def begin(self, sampler: Sampler, latents: Tensor) -> None:
        super().begin(sampler, latents)
        if self._device != latents.device:
            self.correction, self._device = self.correction.to(latents.device), latents.device
        saved = sampler.num_steps - self.correction.plan.calls
        self.summary.samples += len(latents)
        self.summary.hits += len(latents)
        self.summary.network_calls_saved += saved * len(latents)

    def count(self, samples: int) -> None:
        self.summary.network_calls += samples

    def step(self, level: int, visits: list[Visit]) -> Tensor:
        """The state `y` at level + 1."""
        here = visits[-1].y
        start = now(here.device)
        y = self.correction.step(level, visits, [0] * len(here))
        self.summary.retrieval_seconds += now(here.device) - start
        return y


def _reference(scheduler: Any, steps: int, device: Any) -> Sampler:
    scheduler.set_timesteps(steps, device=device)
    return adapt(scheduler)


def _only_count(kwargs: dict[str, Any]) -> int:
    """The wanted number of steps, where the call names nothing else of its schedule."""
    further = [k for k, v in kwargs.items() if v and k not in ("num_inference_steps", "device")]
    if further or kwargs.get("num_inference_steps") is None:
        raise UsageError(
            "this call chooses its own timesteps or sigmas, and corrected steps were fitted to "
            "those of the KB: give num_inference_steps alone"
        )
    return int(kwargs["num_inference_steps"])
