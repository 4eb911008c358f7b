"""Running methods on a model, as short as tests want it."""

from __future__ import annotations

from collections.abc import Container, Sequence

import torch
from torch import Tensor

from redi.methods import Query, Setup
from redi.methods.corrected import Corrected, Correction
from redi.methods.plain import Full
from redi.methods.solve import Outcome, solve
from redi.models.base import Conditioning, DiffusionModel
from redi.samplers import Answer, Calls, Sampler


def run_plain(
    model: DiffusionModel,
    sampler: Sampler,
    conditioning: Conditioning,
    noise: Tensor,
    watch: Container[int] = (),
) -> Outcome:
    """All updates of a sampler."""
    count = len(noise)
    query = Query(noise, (0,) * count, tuple(range(count)))
    return solve(Full().bind(Setup(sampler)), query, model, conditioning, watch=watch)


def run_corrected(
    model: DiffusionModel,
    correction: Correction,
    conditioning: Conditioning,
    noise: Tensor,
    partitions: Sequence[int],
) -> Outcome:
    """Corrected sampling with corrections that are given."""
    method = Corrected(correction.plan.calls)
    method.setup, method.correction = Setup(correction.plan.sampler), correction
    query = Query(noise, tuple(partitions), tuple(range(len(noise))))
    return solve(method, query, model, conditioning)


def answered(
    calls: Calls[Correction], model: DiffusionModel, conditioning: Conditioning
) -> Correction:
    """The result of a fit whose calls are answered by a model, guidance difference included."""
    seen: list[Tensor] = []
    predict = model.predictor(conditioning, seen.append)
    try:
        ask = next(calls)
        while True:
            seen.clear()
            output = predict(ask.input, ask.timestep)
            ask = calls.send(Answer(ask.latents, output, torch.cat(seen) if seen else None))
    except StopIteration as end:
        return end.value
