"""Network calls as corrected runs see them: noise, and what guidance added to it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from redi.methods.corrected.plan import Plan
from redi.models.base import Conditioning, DiffusionModel


class Prediction(NamedTuple):
    """One call's guided noise prediction, and the guidance difference behind it."""

    noise: Tensor  # (B, C, H, W)
    #: output with the prompt less output without it (B, C, H, W); None: unguided
    guidance: Tensor | None = None


class Predictor:
    """The network on one batch of prompts, told the levels of a plan."""

    def __init__(self, plan: Plan, model: DiffusionModel, conditioning: Conditioning) -> None:
        self.plan, self._differences = plan, list[Tensor]()
        self._predict = model.predictor(conditioning, self._differences.append)

    def __call__(self, level: int, latents: Tensor) -> Prediction:
        """One network call for each of the latents (B, C, H, W) of a level."""
        plan = self.plan
        self._differences.clear()
        output = self._predict(latents, plan.timestep(level))
        noise = plan.sampler.noise_prediction(output, latents, plan.steps[level])
        return Prediction(noise, self._differences[0] if self._differences else None)


def predict_all(
    plan: Plan,
    model: DiffusionModel,
    conditionings: Sequence[Conditioning],
    device: torch.device | None = None,
) -> Callable[[Tensor, int], Prediction]:
    """`predict` of `fit_correction`: rows are the prompts of consecutive batches."""
    predictors = [Predictor(plan, model, conditioning) for conditioning in conditionings]
    sizes = [len(conditioning) for conditioning in conditionings]

    def predict(y: Tensor, level: int) -> Prediction:
        latents = (y * plan.alpha[level]).float().to(device)
        parts = [
            predictor(level, part)
            for part, predictor in zip(latents.split(sizes), predictors, strict=True)
        ]
        differences = [part.guidance.cpu() for part in parts if part.guidance is not None]
        noise = torch.cat([part.noise.cpu() for part in parts])
        return Prediction(noise, torch.cat(differences) if differences else None)

    return predict
