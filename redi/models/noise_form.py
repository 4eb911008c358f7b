"""A model of any prediction type as one that predicts noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers import DDIMScheduler
from torch import Tensor

from redi.errors import UsageError
from redi.models.base import Conditioning, DiffusionModel, Watch
from redi.samplers.state import Predict


class NoiseForm:
    """The same `DiffusionModel`, its guided output converted to a noise prediction at every call.

    Latents may be anywhere: the network sees them on its own device, and its output comes back.

    The bounds are stated for noise predictions. Most samplers convert by themselves and run as
    before; diffusers' PNDM averages raw outputs of different levels first, which is a linear
    multistep method in the noise only where the output is the noise.
    """

    def __init__(self, model: DiffusionModel) -> None:
        self.model = model
        self.latent_shape, self.meter = model.latent_shape, model.meter
        self.kind = model.scheduler_config.get("prediction_type", "epsilon")
        if self.kind not in ("epsilon", "v_prediction", "sample"):
            raise UsageError(f"the model's prediction_type {self.kind!r} is not supported")
        table = DDIMScheduler.from_config(dict(model.scheduler_config)).alphas_cumprod.double()
        self.alpha, self.sigma = table.sqrt(), (1 - table).sqrt()  # (T,)

    @property
    def scheduler_config(self) -> Mapping[str, Any]:
        return {**self.model.scheduler_config, "prediction_type": "epsilon"}

    def encode(self, prompts: Sequence[str]) -> Conditioning:
        return self.model.encode(prompts)

    def predictor(self, conditioning: Conditioning, watch: Watch | None = None) -> Predict:
        predict, there = self.model.predictor(conditioning, watch), self.meter.device

        def converted(latents: Tensor, timestep: Tensor) -> Tensor:
            output = predict(latents.to(there), timestep).to(latents.device)
            if self.kind == "epsilon":
                return output
            output = output.to(torch.promote_types(output.dtype, latents.dtype))
            alpha, sigma = (float(level[int(timestep)]) for level in (self.alpha, self.sigma))
            if self.kind == "v_prediction":
                return alpha * output + sigma * latents
            return (latents - alpha * output) / sigma

        return converted

    def decode(self, latents: Tensor) -> Tensor:
        return self.model.decode(latents.to(self.meter.device)).to(latents.device)

    def identity(self) -> dict[str, Any]:
        return self.model.identity() | {"output": f"{self.kind} as noise"}
