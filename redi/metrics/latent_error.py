"""Relative error of latents: to the full run at the end and at the value step, to the exact run."""

from __future__ import annotations

import numpy as np

from redi.config import Config
from redi.lazy import Tensor, torch
from redi.metrics.base import ALWAYS, FILES, Fields, PerPicture, Quality, metric, single
from redi.metrics.batch import FULL, OTHER_NOISE, BatchResult, Table
from redi.metrics.images import same_shape


def latent_error(a: Tensor, reference: Tensor) -> Tensor:
    """Relative error |a - reference| / |reference| of each sample, Euclidean, float64 (B,).

    Takes any shape (B, ...). Raises ValueError where a reference sample is zero.
    """
    same_shape("latents", a, reference)
    a, reference = a.double().flatten(1), reference.double().flatten(1)
    norm = reference.norm(dim=1)
    if (norm == 0).any():
        zero = int((norm == 0).nonzero()[0])
        raise ValueError(f"reference[{zero}] is all zeros; a relative error needs a non-zero one")
    return (a - reference).norm(dim=1) / norm


@metric
class LatentError(PerPicture):
    """Final latents against those of the full run of the same prompt and noise."""

    name, group = "latent_error", "fidelity"
    qualities = single(
        "latent_error", "latent error", place=12, higher_is_better=False, shown=ALWAYS, margin=False
    )

    def values(self, batch: BatchResult, entry: str) -> np.ndarray | None:
        if entry == FULL:
            return None
        full = batch.outcomes[FULL].latents
        return latent_error(batch.outcomes[entry].latents, full).cpu().numpy()


@metric
class LatentErrorAtValue(PerPicture):
    """Latents at the value step, of methods that jump there, against the full run's.

    A sample that does not jump goes through the full run's own latents: its error is zero.
    """

    name, group = "latent_error_at_value", "fidelity"
    qualities = single(
        "latent_error_at_value", "latent error at v", higher_is_better=False, shown=FILES
    )

    def values(self, batch: BatchResult, entry: str) -> np.ndarray | None:
        outcome = batch.outcomes[entry]
        if entry == FULL or outcome.at_value is None or outcome.hits is None:
            return None
        true = batch.outcomes[FULL].watched[batch.value_step]
        errors = latent_error(outcome.at_value, true)
        return torch.where(outcome.hits.to(errors.device), errors, 0.0).cpu().numpy()


@metric
class LatentErrorConverged(PerPicture):
    """Final latents, of the full run too, against the run that stands for the exact solution.

    Beside the mean stand the median and the 90th percentile over pictures: a run that decides for
    another picture weighs in the mean as much as many that do not.
    """

    name, group = "latent_error_converged", "fidelity"
    qualities = (
        *single(
            "latent_error_converged", "latent error to converged", place=50, higher_is_better=False
        ),
        Quality("latent_error_median", "its median", False, shown=FILES, ranked=False),
        Quality("latent_error_p90", "its 90th percentile", False, shown=FILES, ranked=False),
    )

    @classmethod
    def applies(cls, config: Config) -> bool:
        return config.metrics.converged_steps is not None

    def values(self, batch: BatchResult, entry: str) -> np.ndarray | None:
        if batch.converged is None or entry == OTHER_NOISE:
            return None
        return latent_error(batch.outcomes[entry].latents, batch.converged).cpu().numpy()

    def summarise(self, table: Table, entry: str) -> Fields:
        values = table.column(entry, self.name)
        if values is None:
            return {}
        median, high = np.quantile(values, (0.5, 0.9))
        found = super().summarise(table, entry)
        return {**found, "latent_error_median": float(median), "latent_error_p90": float(high)}
