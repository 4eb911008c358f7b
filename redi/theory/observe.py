"""One pass of one sampler over queries and knowledge base, recording what the bounds need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from redi.data.noise import NoisePolicy
from redi.errors import UsageError
from redi.models.base import DiffusionModel
from redi.retrieval import ESTIMATORS
from redi.samplers import Sampler, build_sampler
from redi.theory.certificate import perturbations
from redi.theory.config import TheoryConfig
from redi.theory.fleet import Fleet, predictors_of
from redi.theory.jump import JumpRecord, JumpRecorder, Keys, picture_errors
from redi.theory.losses import NO_LOSSES, Loss
from redi.theory.multistep import multistep
from redi.theory.neighbours import at_random, nearest
from redi.theory.pairs import PairRecord, PairRecorder


@dataclass(frozen=True)
class Observation:
    """Everything that was recorded for one sampler."""

    sampler: Sampler
    queries: tuple[str, ...]
    #: Q x H pairs with the nearest entries, in the order of the queries
    pairs: PairRecord
    #: Q pairs with random entries
    random_pairs: PairRecord
    #: Q pairs with the nearest entry, evaluated with the entry's prompt in the query's place
    swapped_pairs: PairRecord
    #: by estimator and value step
    by_estimator: Mapping[str, Mapping[int, JumpRecord]]
    key_distance: Tensor  # (Q,) nearest key, in units of y
    fit_residual: Tensor  # (Q,) || y_k - sum_h w_h y^h_k ||

    @property
    def jumps(self) -> Mapping[int, JumpRecord]:
        """Jumps of the published estimator by value step."""
        return self.by_estimator["paper"]

    def calls_saved(self, value_step: int) -> int:
        """Network calls that a jump from the key step to `value_step` does not make."""
        return self.sampler.calls(self.pairs.updates[0].index, value_step)


def observe(
    model: DiffusionModel,
    sampler_name: str,
    queries: Sequence[str],
    kb_prompts: Sequence[str],
    config: TheoryConfig,
    losses: Mapping[str, Loss] = NO_LOSSES,
) -> Observation:
    """Run queries and KB prompts from the shared noise, side by side.

    All runs stand at the same step, so no trajectory is kept: memory is a few latents per prompt.
    A pair costs one more network call per step from the key step to the last value step.
    """
    sampler = build_sampler(
        sampler_name, model.scheduler_config, config.steps, config.timestep_spacing
    )
    if sampler_name == "euler":
        raise UsageError(
            "samplers has 'euler', which is DDIM on states that are not scaled to unit variance: "
            "use ddim"
        )
    updates = multistep(sampler)
    noise = NoisePolicy(seed=config.seed).draw([0], model.latent_shape)
    query_fleet, entries = (
        Fleet.launch(model, sampler, updates, prompts, noise, config.batch_size)
        for prompts in (queries, kb_prompts)
    )
    for _ in range(config.key_step):
        query_fleet.advance()
        entries.advance()

    key_distance, rows = nearest(query_fleet.y, entries.y, config.neighbours)
    keys = Keys(query_fleet, entries, rows, config.weights)
    middle = (config.key_step + config.value_steps[-1]) // 2
    swapped = predictors_of(model, [kb_prompts[int(r)] for r in rows[:, 0]], config.batch_size)
    anyone = at_random(len(queries), len(kb_prompts), config.seed)
    perturbed = perturbations(updates, middle, 1 + config.perturbation)
    recorders = (
        PairRecorder(query_fleet, entries, torch.cat([rows, anyone], 1), perturbed),
        PairRecorder(query_fleet, entries, rows[:, :1], prompts_from=swapped),
    )
    jumps: list[JumpRecorder] = []
    for step in range(config.key_step, config.steps + 1):
        if step in config.value_steps:
            jumps += [
                JumpRecorder(query_fleet, entries, keys, estimator, config.resume)
                for estimator in ESTIMATORS
            ]
        if step == config.steps:
            break
        query_fleet.advance()
        for jump in jumps:
            jump.observe()
        if step < config.value_steps[-1]:
            entries.advance()
            for recorder in recorders:
                recorder.observe()

    both, swapped_pairs = (recorder.record() for recorder in recorders)
    is_random = torch.arange(len(both.query)) % (config.neighbours + 1) == config.neighbours
    return Observation(
        sampler,
        tuple(queries),
        both.take(~is_random),
        both.take(is_random),
        swapped_pairs,
        {
            estimator: {
                jump.value_step: jump.record(
                    *picture_errors(model.decode, query_fleet, jump.resumed, losses, queries)
                )
                for jump in jumps
                if jump.estimator == estimator
            }
            for estimator in ESTIMATORS
        },
        key_distance[:, 0],
        keys.residual,
    )
