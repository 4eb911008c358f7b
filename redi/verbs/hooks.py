"""Metric hooks: Lightning callbacks, one per group, chosen by `metrics.hooks`.

A hook turns each evaluated batch into per-picture columns and, at the end, columns into the
fields of a point. Columns are gathered over processes and ordered by query, so points do not
depend on the number of processes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from lightning import Callback
from torch import Tensor

from redi.data.pixels import to_tensor
from redi.embedded.scenes import Scene, sample
from redi.errors import UsageError
from redi.inference import Outcome
from redi.metrics.diversity import pairwise_distance
from redi.metrics.evaluator import Evaluator
from redi.metrics.frechet import fit_gaussian, frechet_distance
from redi.metrics.intervals import Estimate, bootstrap_mean, bootstrap_statistic
from redi.metrics.paired import latent_error, psnr, ssim
from redi.metrics.prompt import attribute_hits

Columns = dict[str, np.ndarray]


@dataclass(frozen=True)
class BatchResult:
    """What all methods made of one batch of queries; `full` is always there."""

    indices: list[int]
    prompts: list[str]
    scenes: list[Scene] | None
    outcomes: dict[str, Outcome]
    images: dict[str, Tensor]  # (B, 3, H, W) in [-1, 1]
    value_step: int
    #: latents of the converged run (B, C, H, W), where one is wanted
    converged: Tensor | None = None
    #: the evaluator's features (B, D) by method, once a hook has asked for them
    features: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass
class Table:
    """Per-picture columns by method, rows keyed by query index."""

    rows: dict[str, dict[int, dict[str, Any]]] = field(default_factory=dict)
    #: rows in a row that belong to one prompt
    repeats: int = 1

    def add(self, method: str, indices: list[int], columns: Columns) -> None:
        for name, values in columns.items():
            if len(values) != len(indices):
                raise ValueError(f"column {name} has {len(values)} values for {len(indices)} rows")
            for index, value in zip(indices, values, strict=True):
                self.rows.setdefault(method, {}).setdefault(index, {})[name] = value

    def merge(self, other: Table) -> None:
        for method, rows in other.rows.items():
            for index, row in rows.items():
                self.rows.setdefault(method, {}).setdefault(index, {}).update(row)

    def column(self, method: str, name: str) -> np.ndarray | None:
        """Values in query order, or nothing where the method does not have the column."""
        rows = self.rows[method]
        values = [rows[index].get(name) for index in sorted(rows)]
        return None if any(value is None for value in values) else np.array(values)

    def by_prompt(self, method: str, name: str) -> np.ndarray | None:
        """Means over each prompt's noises (P,), so that intervals are over prompts."""
        values = self.column(method, name)
        return None if values is None else values.reshape(-1, self.repeats).mean(1)


class MetricHook(Callback):
    """Base of the hooks: measures batches during the test loop, summarises at its end."""

    def on_test_batch_end(
        self, trainer: Any, module: Any, outputs: Any, batch: Any, index: int, loader: int = 0
    ) -> None:
        for method, columns in self.measure(module.result).items():
            module.table.add(method, module.result.indices, columns)

    def measure(self, result: BatchResult) -> dict[str, Columns]:
        """Per-picture columns of each method that has them."""
        raise TypeError(f"{type(self).__name__} measures nothing")

    def summarise(self, table: Table, method: str) -> dict[str, Any]:
        """Fields of the method's point."""
        raise TypeError(f"{type(self).__name__} summarises nothing")


def spread(name: str, estimate: Estimate) -> dict[str, float]:
    """A mean and its interval as point fields."""
    return {
        name: estimate.mean,
        f"{name}_low": estimate.low,
        f"{name}_high": estimate.high,
    }


class CostHook(MetricHook):
    """Network calls and seconds per image, split into network, retrieval and the rest."""

    def measure(self, result: BatchResult) -> dict[str, Columns]:
        columns, count = {}, len(result.indices)
        for method, outcome in result.outcomes.items():
            cost = outcome.cost
            parts = {
                "nfe": cost.calls,
                "seconds_network": cost.network_seconds / count,
                "seconds_retrieval": cost.retrieval_seconds / count,
                "seconds_rest": cost.rest_seconds / count,
            }
            columns[method] = {name: np.full(count, value) for name, value in parts.items()}
        return columns

    def summarise(self, table: Table, method: str) -> dict[str, Any]:
        names = ("nfe", "seconds_network", "seconds_retrieval", "seconds_rest")

        def mean(method: str, name: str) -> float:
            values = table.column(method, name)
            assert values is not None
            return float(np.mean(values))

        means = {name: mean(method, name) for name in names}
        full = mean("full", "nfe")
        seconds = sum(means[name] for name in names[1:])
        return {**means, "seconds_per_image": seconds, "speedup": full / means["nfe"]}


class FidelityHook(MetricHook):
    """Distance to the query's own full run: PSNR, SSIM, latent error at the value step and end.

    With `metrics.converged_steps` also the latent error to the converged run, of `full` too.
    """

    names = (
        "psnr",
        "ssim",
        "latent_error",
        "latent_error_at_value",
        "latent_error_converged",
        "key_distance",
    )

    def __init__(self, resamples: int) -> None:
        self.resamples = resamples

    def measure(self, result: BatchResult) -> dict[str, Columns]:
        full, columns = result.outcomes["full"], {}
        for method, outcome in result.outcomes.items():
            exact: Columns = {}
            if result.converged is not None and method != "other_noise":
                error = latent_error(outcome.latents, result.converged)
                exact["latent_error_converged"] = error.cpu().numpy()
            if method == "full":
                if exact:
                    columns[method] = exact
                continue
            picture, reference = result.images[method], result.images["full"]
            found: Columns = {
                "psnr": psnr(picture, reference).clamp_max(100).numpy(),
                "ssim": ssim(picture, reference).numpy(),
                "latent_error": latent_error(outcome.latents, full.latents).cpu().numpy(),
            }
            if outcome.at_value is not None:
                true = full.watched[result.value_step]
                found["latent_error_at_value"] = latent_error(outcome.at_value, true).cpu().numpy()
            if outcome.found is not None:
                found["key_distance"] = outcome.found.distances[:, 0].numpy()
                found["neighbour_row"] = outcome.found.rows[:, 0].numpy()
            columns[method] = found | exact
        return columns

    def summarise(self, table: Table, method: str) -> dict[str, Any]:
        fields: dict[str, Any] = {}
        for name in self.names:
            values = table.by_prompt(method, name)
            if values is not None:
                fields |= spread(name, bootstrap_mean(values, resamples=self.resamples))
        return fields


class PromptHook(MetricHook):
    """Does the picture show what was asked for: fidelity per attribute, CLIP score."""

    def __init__(self, evaluator: Evaluator, resamples: int) -> None:
        self.evaluator, self.resamples = evaluator, resamples

    def measure(self, result: BatchResult) -> dict[str, Columns]:
        columns: dict[str, Columns] = {}
        for method, images in result.images.items():
            score = self.evaluator.clip_score(images, result.prompts).cpu().numpy()
            columns[method] = {"clip_score": score}
            if result.scenes is not None:
                hits = attribute_hits(images, result.scenes, self.evaluator)
                columns[method] |= {f"correct_{name}": value for name, value in hits.items()}
        return columns

    def summarise(self, table: Table, method: str) -> dict[str, Any]:
        def estimate(name: str) -> Estimate | None:
            values = table.by_prompt(method, name)
            return None if values is None else bootstrap_mean(values, resamples=self.resamples)

        score = estimate("clip_score")
        fields: dict[str, Any] = spread("clip_score", score) if score else {}
        names = next(iter(table.rows[method].values()))
        found = {
            name.removeprefix("correct_"): estimate(name)
            for name in names
            if name.startswith("correct_")
        }
        for suffix, part in (("", "mean"), ("_low", "low"), ("_high", "high")):
            if found:
                fields[f"prompt_fidelity{suffix}"] = {
                    name: getattr(value, part) for name, value in found.items() if value
                }
        return fields


class FeatureHook(MetricHook):
    """Base of the hooks on the evaluator's features, which are computed once for all of them."""

    evaluator: Evaluator

    def measure(self, result: BatchResult) -> dict[str, Columns]:
        for method, images in result.images.items():
            if method not in result.features:
                found = self.evaluator.image_features(images)
                result.features[method] = found.double().cpu().numpy()
        return {method: {"features": found} for method, found in result.features.items()}


class DistributionHook(FeatureHook):
    """FD-scene: Fréchet distance of the evaluator's features to those of real scenes."""

    def __init__(
        self, evaluator: Evaluator, real_images: int, pictures: int, allow_few: bool
    ) -> None:
        if pictures < evaluator.dimension and not allow_few:
            raise UsageError(
                f"data.num_queries={pictures} is fewer than the {evaluator.dimension} features "
                "of FD-scene: use more queries, metrics.allow_few=true, or leave 'distribution' "
                "out of metrics.hooks"
            )
        self.evaluator, self.allow_few = evaluator, allow_few
        self.real_images = real_images
        self._real: np.ndarray | None = None

    @property
    def real(self) -> np.ndarray:
        """Features of real held-out scenes (R, D)."""
        if self._real is None:
            parts = []
            for start in range(0, self.real_images, 256):
                stop = min(start + 256, self.real_images)
                drawn = [sample("query", index, seed=3) for index in range(start, stop)]
                pictures = to_tensor(np.stack([scene.render(rng) for scene, rng in drawn]))
                parts.append(self.evaluator.image_features(pictures).cpu())
            self._real = torch.cat(parts).double().numpy()
        return self._real

    def summarise(self, table: Table, method: str) -> dict[str, Any]:
        features = table.column(method, "features")
        if features is None:
            return {}
        real = fit_gaussian(self.real)

        def statistic(prompts: np.ndarray) -> float:
            rows = prompts.reshape(-1, features.shape[1])
            return frechet_distance(fit_gaussian(rows, allow_few=True), real)

        fit_gaussian(features, self.allow_few)
        prompts = features.reshape(len(features) // table.repeats, -1)
        return {
            **spread("fd_scene", bootstrap_statistic(prompts, statistic)),
            "fd_scene_count": len(features),
            "fd_scene_real_count": len(self.real),
        }


class DiversityHook(FeatureHook):
    """Mean pairwise feature distance of a prompt's pictures over its noises."""

    def __init__(self, evaluator: Evaluator, repeats: int, resamples: int) -> None:
        if repeats < 2:
            raise UsageError(
                f"data.repeats={repeats} gives each prompt one picture, and 'diversity' compares "
                "several: use data.repeats=3 or leave it out of metrics.hooks"
            )
        self.evaluator, self.resamples = evaluator, resamples

    def summarise(self, table: Table, method: str) -> dict[str, Any]:
        features = table.column(method, "features")
        if features is None:
            return {}
        distances = pairwise_distance(features.reshape(-1, table.repeats, features.shape[1]))
        return spread("diversity", bootstrap_mean(distances, resamples=self.resamples))


class StylizationHook(MetricHook):
    """Was the content kept, was the style taken: shares of attributes that the evaluator sees."""

    content = ("object", "background", "size", "place")

    def __init__(self, resamples: int) -> None:
        self.resamples = resamples

    def measure(self, result: BatchResult) -> dict[str, Columns]:
        return {}  # PromptHook wrote the columns

    def summarise(self, table: Table, method: str) -> dict[str, Any]:
        fields: dict[str, Any] = {}
        for name, attributes in (("content_score", self.content), ("style_score", ("style",))):
            columns = [table.by_prompt(method, f"correct_{name}") for name in attributes]
            known = [column for column in columns if column is not None]
            if len(known) == len(attributes):
                shares = np.mean(known, axis=0)
                fields |= spread(name, bootstrap_mean(shares, resamples=self.resamples))
        return fields
