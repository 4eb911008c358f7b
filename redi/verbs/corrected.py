"""Retrieval-corrected sampling as methods of a run, beside plain samplers with as many calls."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.stats import binomtest
from torch import Tensor

from redi.config import Config
from redi.inference import Outcome
from redi.knowledge_base import KnowledgeBase
from redi.methods.corrected import (
    Correction,
    plan,
    run_corrected,
    uncorrected,
)
from redi.methods.corrected.adaptive import BudgetPolicy
from redi.methods.corrected.run import run_adaptive
from redi.methods.corrected.store import (
    correction_path,
    fitted_to,
    load_correction,
    load_policy,
)
from redi.metrics.batch import Table
from redi.models.base import Conditioning
from redi.models.text_to_image import TextToImageModel
from redi.samplers import Sampler
from redi.verbs.assemble import sampler_from
from redi.verbs.fit_corrections import policy_file, recipe_from
from redi.verbs.reference import ReferenceRuns
from redi.verbs.rivals import Rival, rival

#: the method whose queries get as many calls as they need
ADAPTIVE = "corrected@adaptive"


class CorrectedMethods:
    """What `correction.calls` adds to an evaluation.

    Methods are named `corrected@<calls>`, `corrected@adaptive` and `plain@<calls>:<sampler>`. A
    sampler that cannot run with so few calls (PNDM's warm-up takes more) is left out at that
    budget.
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
            found = load_correction(path, reference, fitted_to(kb))
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
        self.policy: BudgetPolicy | None = None
        if config.correction.tolerance is not None:
            self.policy = load_policy(policy_file(config, kb, recipe), fitted_to(kb))
            self.policy = self.policy.to(model.device)

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
        if self.policy is not None:
            by_calls = {found.plan.calls: found for found in self.corrections.values()}
            results[ADAPTIVE] = run_adaptive(
                self.model, self.policy, by_calls, conditioning, noise, partitions
            )
        return results

    def shown(self, table: Table) -> dict[str, str]:
        """Methods for the sample sheet, with labels: the budget nearest to four calls.

        Of the plain samplers only the one with the least latent error, where that was measured.
        """
        if not self.config.correction.calls:
            return {}
        calls = min(self.config.correction.calls, key=lambda n: abs(n - 4))
        start = f"plain@{calls}:"
        plain = [name for name in (*self.plain, *self.placed) if name.startswith(start)]
        errors = {name: table.column(name, "latent_error") for name in plain}
        known = {name: float(found.mean()) for name, found in errors.items() if found is not None}
        if known:
            plain = [min(known, key=lambda name: known[name])]
        labels = {name: f"{name.removeprefix(start)}, {calls} calls" for name in plain}
        return labels | {f"corrected@{calls}": f"retrieval-corrected, {calls} calls"}

    def fields(self, name: str) -> dict[str, Any]:
        """Fields of the point that a method makes."""
        if name in self.plain:
            chosen, sampler = self.plain[name]
            return {"method": "plain", "sampler": chosen.label, "steps": sampler.num_steps}
        if name == ADAPTIVE:
            return self._adaptive_fields()
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

    def _adaptive_fields(self) -> dict[str, Any]:
        assert self.policy is not None
        return {
            "method": "corrected",
            "sampler": self.config.sampler.name,
            "steps": self.policy.budgets[0],
            "kb_size": self.config.kb.size,
            "estimator": f"adaptive to {self.policy.tolerance}",
        }

    def verdict(self, name: str, errors: np.ndarray | None) -> dict[str, Any]:
        """What an adaptive point promised and what became of it, from the queries' errors (Q,)."""
        if name != ADAPTIVE or self.policy is None or errors is None:
            return {}
        beyond = int((errors > self.policy.tolerance).sum())
        interval = binomtest(beyond, len(errors)).proportion_ci(method="exact")
        return {
            "tolerance": self.policy.tolerance,
            "risk": self.policy.risk,
            "exceeded": beyond / len(errors),
            "exceeded_low": float(interval.low),
            "exceeded_high": float(interval.high),
            "fixed_calls": self.policy.fixed,
        }
