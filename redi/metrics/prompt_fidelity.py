"""Prompt fidelity: does a picture show what its prompt asked for, attribute by attribute."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from redi.embedded.scenes import ATTRIBUTES, Scene
from redi.metrics.base import ALWAYS, FILES, Fields, Metric, Quality, metric
from redi.metrics.batch import BatchResult, Columns, Table
from redi.metrics.evaluator import Evaluator
from redi.metrics.needs import EvaluatorFeatures

_CELL = "fidelity %"


def attribute_hits(
    images: Tensor, scenes: Sequence[Scene], evaluator: Evaluator
) -> dict[str, np.ndarray]:
    """Per attribute, float64 (B,): 1 where the evaluator sees the intended value, else 0.

    The column `all` is 1 where every attribute is right, as in GenEval (Ghosh et al., 2023).
    `images` is (B, 3, 64, 64) in [-1, 1]; `scenes` are the compositions asked for.
    """
    if len(images) != len(scenes):
        raise ValueError(
            f"scenes has {len(scenes)} entries for {len(images)} images; give one for each"
        )
    return hits(evaluator.predict(images), scenes)


def hits(seen: dict[str, list[str]], scenes: Sequence[Scene]) -> dict[str, np.ndarray]:
    """As `attribute_hits`, from what the evaluator saw."""
    wanted = {name: [getattr(scene, name) for scene in scenes] for name in ATTRIBUTES}
    right = {
        name: (np.array(seen[name]) == np.array(wanted[name])).astype(np.float64)
        for name in ATTRIBUTES
    }
    return right | {"all": np.prod(list(right.values()), axis=0)}


def _quality(attribute: str) -> Quality:
    return Quality(
        f"prompt_fidelity.{attribute}",
        "fidelity in all attributes" if attribute == "all" else f"{attribute} fidelity",
        shown=FILES if attribute == "all" else ALWAYS,
        column=f"correct_{attribute}",
        place=40,
        headline=attribute == "object",
        loss=0.02 if attribute == "all" else None,
        cell="" if attribute == "all" else _CELL,
    )


@metric
class PromptFidelity(Metric):
    """The share of pictures in which the evaluator sees each attribute that was asked for."""

    name, group, needs = "prompt_fidelity", "prompt", ("evaluator",)
    qualities = tuple(map(_quality, (*ATTRIBUTES, "all")))
    evaluator: EvaluatorFeatures

    def measure(self, batch: BatchResult) -> dict[str, Columns]:
        columns: dict[str, Columns] = {}
        if batch.scenes is not None:
            for entry in batch.images:
                seen = self.evaluator.judge.read(self.evaluator.of(batch, entry))
                found = hits(seen, batch.scenes)
                columns[entry] = {f"correct_{name}": value for name, value in found.items()}
        return columns

    def summarise(self, table: Table, entry: str) -> Fields:
        fields: Fields = {}
        for quality in self.qualities:
            found = self.mean(table, entry, str(quality.column))
            if found is not None:
                fields[quality.name] = found
        return fields
