"""Trajectories of many prompts that advance together, so that memory does not grow with steps."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from redi.models.base import DiffusionModel
from redi.samplers import Predict, Sampler, SamplerState, drive
from redi.theory.multistep import Update

#: Predictions that the longest method (PNDM) combines.
_REACH = 4


class Fleet:
    """All runs of one list of prompts at one step.

    It keeps the current state, the state before the last update and the last four predictions,
    whatever the number of steps. The network sees at most `batch_size` rows at a time.
    """

    def __init__(
        self,
        sampler: Sampler,
        updates: Sequence[Update],
        predictors: Sequence[Predict],
        batch_size: int,
        state: SamplerState,
    ) -> None:
        self.sampler, self.predictors, self.batch_size = sampler, predictors, batch_size
        self.updates = {update.index: update for update in updates}
        self.state = self.before = state
        self.y = self.y_before = self._normalised()  # (B, C, H, W) x / alpha, float64
        self.noise = state.latents  # (B, C, H, W) e of the last update's first call
        self.last = state.latents  # (B, C, H, W) e of its last call, which a jump may use
        self.rounding = torch.zeros(len(state))  # (B,) what the last update may add to y
        self.predictions: deque[Tensor] = deque(maxlen=_REACH)

    @classmethod
    def launch(
        cls,
        model: DiffusionModel,
        sampler: Sampler,
        updates: Sequence[Update],
        prompts: Sequence[str],
        noise: Tensor,
        batch_size: int,
    ) -> Fleet:
        """All prompts from one shared noise (1, C, H, W)."""
        predictors = predictors_of(model, prompts, batch_size)
        state = sampler.initial(noise.repeat(len(prompts), 1, 1, 1))
        return cls(sampler, updates, predictors, batch_size, state)

    def fork(self, updates: Sequence[Update], state: SamplerState) -> Fleet:
        """The same prompts going on from another state."""
        return Fleet(self.sampler, updates, self.predictors, self.batch_size, state)

    def __len__(self) -> int:
        return len(self.state)

    def batches(self) -> Iterator[tuple[slice, Predict]]:
        """Rows and the predictor of their prompts."""
        for number, predict in enumerate(self.predictors):
            yield slice(number * self.batch_size, (number + 1) * self.batch_size), predict

    def advance(self) -> None:
        """One update of every run."""
        records = [
            drive(self.sampler.update(self.state.take(rows)), predict)
            for rows, predict in self.batches()
        ]
        update = self.updates[self.state.step]
        self.before, self.state = self.state, SamplerState.join([r.state for r in records])
        self.y_before, self.y = self.y, self._normalised()
        self.noise = torch.cat([record.predictions[0] for record in records])
        self.last = torch.cat([record.predictions[-1] for record in records])
        self.predictions.appendleft(update.prediction(self.y_before, self.noise))
        self.rounding = self._rounding(update)

    def _normalised(self) -> Tensor:
        return self.state.latents.double() / float(self.sampler.levels.alpha[self.state.step])

    def _rounding(self, update: Update) -> Tensor:
        """The schedulers compute in float32: one unit of rounding on every term of the update."""
        terms = norms(self.y_before) + norms(self.y)
        for b, prediction in zip(update.weights, self.predictions, strict=False):
            size = norms(prediction)
            if update.data_form:
                size = size + norms(self.y_before)  # d = y - rho e is itself a difference
            terms = terms + abs(update.gain * b) * size
        return torch.finfo(torch.float32).eps * terms


def predictors_of(
    model: DiffusionModel, prompts: Sequence[str], batch_size: int
) -> tuple[Predict, ...]:
    """Predictors of a list of prompts, `batch_size` prompts each."""
    return tuple(
        promoted(model.predictor(model.encode(prompts[start : start + batch_size])))
        for start in range(0, len(prompts), batch_size)
    )


def promoted(predict: Predict) -> Predict:
    """The predictor with outputs at least as precise as its inputs.

    A half-precision network stays what it is, but the sampler's own arithmetic is not rounded.
    """

    def wrapped(latents: Tensor, timestep: Tensor) -> Tensor:
        output = predict(latents, timestep)
        return output.to(torch.promote_types(output.dtype, latents.dtype))

    return wrapped


def norms(tensor: Tensor) -> Tensor:
    """Euclidean norm per sample (B,) in float64."""
    return tensor.double().flatten(1).norm(dim=1)
