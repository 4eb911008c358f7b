"""Retrieval-corrected sampling as methods of a run, beside plain samplers with as many calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from redi.config import Config
from redi.correction import (
    Correction,
    Recipe,
    fit_correction,
    plan,
    run_corrected,
    uncorrected,
)
from redi.correction.levels import best_plan
from redi.correction.plan import Plan, check_calls
from redi.correction.predict import predict_all
from redi.correction.store import correction_path, load_correction, save_correction
from redi.errors import UsageError
from redi.inference import Outcome, step_group
from redi.knowledge_base import KnowledgeBase
from redi.models.base import Conditioning
from redi.models.text_to_image import TextToImageModel
from redi.samplers import Sampler
from redi.tasks.assemble import noise_from, sampler_from
from redi.tasks.reference import ReferenceRuns
from redi.tasks.rivals import Rival, rival


def recipe_from(config: Config) -> Recipe:
    """The configured recipe; refuses unknown names."""
    chosen = config.correction
    for text in chosen.against:
        rival(text, config.sampler.timestep_spacing)
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
        save_correction(path, _fit(config, kb, model, chosen, recipe))


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


class CorrectedMethods:
    """What `correction.calls` adds to an evaluation.

    Methods are named `corrected@<calls>` and `plain@<calls>:<sampler>`. A sampler that cannot run
    with so few calls (PNDM's warm-up takes more) is left out at that budget.
    """

    def __init__(
        self, config: Config, kb: KnowledgeBase, model: TextToImageModel, runs: ReferenceRuns
    ) -> None:
        recipe = recipe_from(config)
        reference = sampler_from(config, model)
        self.config, self.model, self.runs = config, model, runs
        self.corrections: dict[str, Correction] = {}
        self.plain: dict[str, tuple[Rival, Sampler]] = {}
        self.placed: dict[str, Correction] = {}  # plain samplers on levels of the reference
        for calls in config.correction.calls:
            path = correction_path(kb.root, kb.content_hash, calls, recipe)
            found = load_correction(path, reference)
            self.corrections[f"corrected@{calls}"] = found.to(model.device)
            for text in config.correction.against:
                chosen = rival(text, config.sampler.timestep_spacing)
                name = f"plain@{calls}:{text}"
                if chosen.placement is not None:
                    self.placed[name] = uncorrected(
                        plan(reference, calls, chosen.placement), chosen.name
                    )
                    continue
                sampler = chosen.with_calls(model.scheduler_config, calls)
                if sampler is not None:
                    self.plain[name] = chosen, sampler

    def outcomes(
        self, conditioning: Conditioning, noise: Tensor, partitions: list[int]
    ) -> dict[str, Outcome]:
        """All methods on one batch."""
        results = {
            name: self.runs.run(sampler, conditioning, noise)
            for name, (_, sampler) in self.plain.items()
        }
        for name, correction in {**self.placed, **self.corrections}.items():
            results[name] = run_corrected(self.model, correction, conditioning, noise, partitions)
        return results

    def shown(self) -> dict[str, str]:
        """Methods for the sample sheet, with labels: the budget nearest to four calls."""
        if not self.config.correction.calls:
            return {}
        calls = min(self.config.correction.calls, key=lambda n: abs(n - 4))
        plain = [name for name in self.plain if name.startswith(f"plain@{calls}:")]
        labels = {name: f"{self.plain[name][0].label}, {calls} calls" for name in plain}
        return labels | {f"corrected@{calls}": f"retrieval-corrected, {calls} calls"}

    def fields(self, name: str) -> dict[str, Any]:
        """Fields of the point that a method makes."""
        if name in self.plain:
            chosen, sampler = self.plain[name]
            return {"method": "plain", "sampler": chosen.label, "steps": sampler.num_steps}
        if name in self.placed:
            label = name.split(":", 1)[1]
            return {"method": "plain", "sampler": label, "steps": self.placed[name].plan.calls}
        correction = self.corrections[name]
        fields: dict[str, Any] = {
            "method": "corrected",
            "sampler": self.config.sampler.name,
            "steps": correction.plan.calls,
            "kb_size": self.config.kb.size,
            "estimator": self.config.correction.base,
            "levels": list(correction.plan.steps),
            "parts": [step.part for step in correction.steps],
        }
        if correction.predicted_error is not None:
            fields["predicted_latent_error"] = float(correction.predicted_error.mean())
        return fields
