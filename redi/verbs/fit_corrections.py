"""Fitting the corrections that a run names, and its adaptive budget, beside the KB."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from redi.config import Config
from redi.errors import UsageError
from redi.inference import step_group
from redi.knowledge_base import KnowledgeBase
from redi.methods.corrected import (
    Correction,
    Recipe,
    fit_correction,
    plan,
)
from redi.methods.corrected.adaptive import fit_policy
from redi.methods.corrected.levels import best_plan
from redi.methods.corrected.plan import Plan, check_calls
from redi.methods.corrected.predict import predict_all
from redi.methods.corrected.run import first_look
from redi.methods.corrected.store import (
    correction_path,
    fitted_to,
    load_correction,
    policy_path,
    save_correction,
    save_policy,
)
from redi.models.text_to_image import TextToImageModel
from redi.verbs.assemble import noise_from, sampler_from
from redi.verbs.rivals import rival


def recipe_from(config: Config) -> Recipe:
    """The configured recipe; refuses unknown names."""
    chosen = config.correction
    for text in chosen.against:
        rival(text, config.sampler.timestep_spacing)
    if chosen.tolerance is not None:
        if not chosen.tolerance > 0:
            raise UsageError(
                f"correction.tolerance={chosen.tolerance} is no error: give a positive number, "
                "such as 0.05"
            )
        if not 0 < chosen.risk < 1:
            raise UsageError(f"correction.risk={chosen.risk} is no share: use more than 0, below 1")
        if len(chosen.calls) < 2 or chosen.states != "visited":
            raise UsageError(
                f"correction.tolerance={chosen.tolerance} chooses between budgets by left-out "
                "errors: give correction.calls at least two numbers and keep "
                "correction.states=visited"
            )
    if len(set(chosen.calls)) != len(chosen.calls):
        raise UsageError(f"correction.calls={list(chosen.calls)} names a budget twice")
    for calls in chosen.calls:
        check_calls(config.sampling.steps, calls)
    return Recipe(
        base=chosen.base,
        states=chosen.states,
        parts=tuple(chosen.parts),
        features=tuple(chosen.features),
        kernels=tuple(chosen.kernels),
        widths=tuple(chosen.widths),
        ridges=tuple(chosen.ridges),
        patches=tuple(chosen.patches),
        folds=chosen.folds,
        levels=tuple(chosen.levels),
        trials=chosen.trials,
        nearest=chosen.nearest,
    )


def fit_all(
    config: Config, kb: KnowledgeBase, model: TextToImageModel, say: Callable[[str], None]
) -> None:
    """Fit every budget of `correction.calls` that does not lie beside the KB yet."""
    recipe = recipe_from(config)
    for calls in config.correction.calls:
        path = correction_path(kb.root, kb.content_hash, calls, recipe)
        if path.is_file():
            continue
        chosen = _placed(config, kb, model, calls, recipe, say)
        say(f"Fitting {calls} corrections to {len(kb)} trajectories: {path}")
        save_correction(path, _fit(config, kb, model, chosen, recipe), fitted_to(kb))
    if config.correction.tolerance is not None:
        _fit_policy(config, kb, model, recipe, say)


def policy_file(config: Config, kb: KnowledgeBase, recipe: Recipe) -> Path:
    chosen = config.correction
    assert chosen.tolerance is not None
    budgets = sorted(chosen.calls, reverse=True)
    return policy_path(kb.root, kb.content_hash, budgets, recipe, chosen.tolerance, chosen.risk)


def _fit_policy(
    config: Config,
    kb: KnowledgeBase,
    model: TextToImageModel,
    recipe: Recipe,
    say: Callable[[str], None],
) -> None:
    path, chosen = policy_file(config, kb, recipe), config.correction
    if path.is_file() or chosen.tolerance is None:
        return
    say(f"Fitting the adaptive budget to {len(kb)} trajectories: {path}")
    noise, size, sampler = noise_from(config), config.model.batch_size, sampler_from(config, model)
    budgets, errors = sorted(chosen.calls, reverse=True), []
    for calls in budgets:
        where = correction_path(kb.root, kb.content_hash, calls, recipe)
        found = load_correction(where, sampler, fitted_to(kb))
        assert found.predicted_error is not None
        errors.append(found.predicted_error)
    features = []
    for i in range(0, len(kb), size):
        start = noise.draw(kb.noise_ids[i : i + size].tolist(), model.latent_shape)
        conditioning = model.encode(kb.prompts[i : i + size])
        here, _ = first_look(model, found.plan, conditioning, start.to(model.device))
        features.append(found.steps[0].features([here]).flatten(1).cpu())
    policy = fit_policy(
        torch.cat(features), torch.stack(errors, 1), budgets, chosen.tolerance, chosen.risk
    )
    save_policy(path, policy, fitted_to(kb))


def _placed(
    config: Config,
    kb: KnowledgeBase,
    model: TextToImageModel,
    calls: int,
    recipe: Recipe,
    say: Callable[[str], None],
) -> Plan:
    sampler = sampler_from(config, model)
    plans = [plan(sampler, calls, placement) for placement in recipe.levels]
    if len(plans) > 1:
        say(f"Placing {calls} calls: {len(plans)} alternatives on {recipe.trials} trajectories")
    few = KnowledgeBase(kb.root, min(recipe.trials, len(kb)), hashes=False)
    return best_plan(plans, lambda tried: _fit(config, few, model, tried, recipe))


def _fit(
    config: Config, kb: KnowledgeBase, model: TextToImageModel, chosen: Plan, recipe: Recipe
) -> Correction:
    noise, size = noise_from(config), config.model.batch_size
    alpha = chosen.alpha

    def reference(level: int) -> Tensor:
        if level == 0:
            start = noise.draw(kb.noise_ids.tolist(), model.latent_shape)
            latents = chosen.sampler.initial(start).latents
        else:
            latents = kb.column(step_group(chosen.steps[level]), "latents")
        return latents.double() / alpha[level]

    prompts = [kb.prompts[i : i + size] for i in range(0, len(kb), size)]
    conditionings = [model.encode(texts) for texts in prompts]
    partitions = torch.tensor([noise.partition(int(i)) for i in kb.noise_ids])
    predict = predict_all(chosen, model, conditionings, model.device)
    return fit_correction(chosen, recipe, reference, predict, partitions)
