"""What a jump takes over from the neighbours: predictions are averaged, states are estimated."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from redi.methods.land import Landing
from redi.models.mixture import SCHEDULE
from redi.retrieval import WEIGHTS, Found
from redi.samplers import SamplerState, build_sampler

STEPS, KEY, COUNT = 20, 3, 4


def curved(latents: Tensor, timestep: Tensor) -> Tensor:
    return torch.tanh(latents + 0.3 * latents.roll(1, dims=1)) + 0.1 * torch.sin(3 * latents)


class Trajectories:
    """As much of a KB as a jump reads."""

    latent_shape = (4, 4, 4)
    stored_steps = list(range(STEPS + 1))

    def __init__(self, states: list[SamplerState]) -> None:
        self.states = states

    def stores(self, step: int, what: str) -> bool:
        return True

    def latents(self, step: int, rows: Tensor) -> Tensor:
        return self.states[step].latents[rows]

    def prediction(self, step: int, rows: Tensor) -> Tensor:
        found = self.states[step].prediction
        assert found is not None
        return found[rows]

    def history(self, step: int, rows: Tensor) -> Tensor:
        return torch.stack(self.states[step].history, 1)[rows]


def relative(mine: Tensor, other: Tensor) -> float:
    return float((mine - other).norm() / other.norm())


@pytest.mark.parametrize("estimator", ["transport", "delta"])
@pytest.mark.parametrize(
    ("name", "order", "value"), [("unipc", 2, 9), ("unipc", 3, 14), ("dpm_solver_single", 3, 8)]
)
def test_states_in_the_history_are_estimated_like_the_latents(
    name: str, order: int, value: int, estimator: str
) -> None:
    sampler = build_sampler(name, SCHEDULE, STEPS, order=order)
    draw = torch.Generator().manual_seed(0)
    mean = torch.randn(1, 4, 4, 4, generator=draw)
    start = 0.9 * mean + 0.43 * torch.randn(1 + COUNT, 4, 4, 4, generator=draw)
    begun = sampler.initial(start)
    states = [begun, *(record.state for record in sampler.records(begun, curved))]
    query, kb = [s.take(slice(0, 1)) for s in states], [s.take(slice(1, None)) for s in states]
    trajectories: Any = Trajectories(kb)
    landing = Landing(sampler, trajectories, KEY, value, estimator, "affine", "retrieved")
    found = Found(torch.arange(COUNT)[None], torch.ones(1, COUNT).double())
    landed = landing(query[KEY], found)
    weights = WEIGHTS["affine"](query[KEY].latents.flatten(1), kb[KEY].latents.flatten(1)[None])
    averaged = (weights[0, :, None, None, None] * kb[value].history[-1]).sum(0)[None]
    truth = query[value].history[-1]
    assert relative(landed.history[-1], truth) < 0.9 * relative(averaged, truth)
    before = SamplerState(value, landed.latents, (*landed.history[:-1], averaged.float()))
    full = query[-1].latents
    mine, old = (relative(sampler.finish(s, curved).latents, full) for s in (landed, before))
    assert mine < 0.95 * old
    own = Found(torch.zeros(1, 1, dtype=torch.long), torch.zeros(1, 1).double())
    again = landing(kb[KEY].take(slice(0, 1)), own)
    for item, stored in zip(again.history, kb[value].history, strict=True):
        assert torch.equal(item, stored[:1])
