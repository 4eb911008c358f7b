"""Landing: the state at the value step, estimated from the query's and its neighbours' states."""

from __future__ import annotations

from dataclasses import replace

from redi.errors import UsageError
from redi.knowledge_base import KnowledgeBase
from redi.lazy import Tensor, torch
from redi.retrieval import ESTIMATORS, WEIGHTS, Found, Jump, straight
from redi.samplers import Sampler, SamplerState


class Landing:
    """From the key step to the value step along given trajectories; calls no network.

    All arithmetic is in the normalised variables `y = x / alpha` in float64, where putting a
    trajectory back on itself is exact.
    """

    def __init__(
        self,
        sampler: Sampler,
        kb: KnowledgeBase,
        key_step: int,
        value_step: int,
        estimator: str,
        weights: str,
        resume: str,
    ) -> None:
        self.sampler, self.kb, self.resume = sampler, kb, resume
        self.key_step, self.value_step = key_step, value_step
        self.estimator, self.weights = ESTIMATORS[estimator], WEIGHTS[weights]
        if not (kb.stores(key_step, "latents") and kb.stores(key_step, "prediction")):
            known = ", ".join(map(str, kb.key_steps)) or "none"
            raise UsageError(
                f"kb.key_step={key_step} is no key step of this KB (it has {known}): use one of "
                "these, or make a KB that has it"
            )
        if value_step not in kb.stored_steps:
            others = ", ".join(str(s) for s in kb.stored_steps if s > key_step)
            raise UsageError(
                f"retrieval.value_step={value_step} is not stored in the KB "
                f"(stored: {others}): use one of these or build with kb.value_steps"
            )
        carried = sampler.history_after(value_step) if value_step < sampler.num_steps else 0
        self.takes_history = resume == "retrieved" and carried > 0
        if self.takes_history and not kb.stores(value_step, "history"):
            raise UsageError(
                "retrieval.resume=retrieved needs the predictions of the stored trajectories: "
                "build the KB with kb.store_history=true or use retrieval.resume=rewarm"
            )

    def __call__(self, key: SamplerState, found: Found | None) -> SamplerState:
        """The state at the value step; without neighbours, straight on with the last prediction."""
        jump = self.jump(key, found)
        estimate = straight(jump) if found is None else self.estimator(jump)
        like, step = key.latents, self.value_step
        latents = (estimate * self.sampler.levels.alpha[step]).to(like).reshape(like.shape)
        if found is None or not self.takes_history:
            # nothing was retrieved, so there is no history to take over
            policy = "rewarm" if self.resume == "retrieved" else self.resume
            return self.sampler.resume(step, latents, policy)
        stored = self.kb.history(step, found.rows).double()  # (B, H, n, C, H, W)
        carried = zip(stored.unbind(2), self.sampler.history_steps(step), strict=True)
        history = tuple(self._carry(jump, *item).to(like).reshape(like.shape) for item in carried)
        return self.sampler.resume(step, latents, self.resume, history)

    def _carry(self, jump: Jump, items: Tensor, at: int | None) -> Tensor:
        """One carried tensor (B, C, H, W) from the neighbours' (B, H, C, H, W).

        Predictions are averaged. A state, which is after `at` updates, is estimated as the latents
        are.
        """
        if at is None:
            return jump.combine(items)
        alpha, rho = self.sampler.levels.alpha[at], self.sampler.levels.rho
        stride = float(rho[at] - rho[self.key_step])
        return self.estimator(replace(jump, values=items / alpha, stride=stride)) * alpha

    def jump(self, key: SamplerState, found: Found | None) -> Jump:
        """What is known at the key step, normalised."""
        alpha, rho = self.sampler.levels.alpha, self.sampler.levels.rho
        k, v, shape = self.key_step, self.value_step, self.kb.latent_shape
        query = key.latents.double().cpu().reshape(len(key), *shape)
        assert key.prediction is not None  # the key step comes after an update
        if found is None:
            keys = values = predictions = torch.zeros((len(key), 0, *shape), dtype=torch.float64)
            weights = torch.zeros((len(key), 0), dtype=torch.float64)
        else:
            keys = self.kb.latents(k, found.rows).double()
            values = self.kb.latents(v, found.rows).double()
            predictions = self.kb.prediction(k, found.rows).double()
            weights = self.weights(query.flatten(1), keys.flatten(2))
        return Jump(
            query_key=query / alpha[k],
            query_prediction=key.prediction.double().cpu().reshape(query.shape),
            keys=keys / alpha[k],
            predictions=predictions,
            values=values / alpha[v],
            weights=weights,
            stride=float(rho[v] - rho[k]),
        )

    def left_out(self, rows: Tensor, found: Found) -> Tensor:
        """Relative errors (B,) at the value step of trajectories that jump along others."""
        latents, prediction = (
            self.kb.latents(self.key_step, rows),
            self.kb.prediction(self.key_step, rows),
        )
        key = SamplerState(self.key_step, latents, prediction=prediction)
        estimate = (
            self.estimator(self.jump(key, found)) * self.sampler.levels.alpha[self.value_step]
        )
        truth = self.kb.latents(self.value_step, rows).double()
        return (estimate - truth).flatten(1).norm(dim=1) / truth.flatten(1).norm(dim=1)
