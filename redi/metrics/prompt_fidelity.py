"""Prompt fidelity: does a picture show what its prompt asked for, attribute by attribute."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from redi.embedded.captions import Composition
from redi.embedded.scenes import ATTRIBUTES
from redi.lazy import Tensor
from redi.metrics.base import ALWAYS, FILES, Fields, Metric, Quality, metric
from redi.metrics.batch import BatchResult, Columns, Table
from redi.metrics.evaluator import Evaluator
from redi.metrics.needs import EvaluatorFeatures

_CELL = "fidelity %"


def attribute_hits(
    images: Tensor, said: Sequence[Composition], evaluator: Evaluator
) -> dict[str, np.ndarray]:
    """Per attribute, float64 (B,): 1 where the evaluator sees what was said, 0 where it does not.

    What was not said is NaN. The column `all` is 1 where every said attribute is right, as in
    GenEval (Ghosh et al., 2023). `images` is (B, 3, 64, 64) in [-1, 1].
    """
    if len(images) != len(said):
        raise ValueError(
            f"said has {len(said)} entries for {len(images)} images; give one for each"
        )
    return hits(evaluator.predict(images), said)


def hits(seen: dict[str, list[str]], said: Sequence[Composition]) -> dict[str, np.ndarray]:
    """As `attribute_hits`, from what the evaluator saw."""
    right = {
        name: np.array(
            [
                np.nan if (value := getattr(one, name)) is None else float(value == found)
                for one, found in zip(said, seen[name], strict=True)
            ]
        )
        for name in ATTRIBUTES
    }
    return right | {"all": np.fmin.reduce(list(right.values()))}


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
    """Of the pictures that were to show an attribute, the share in which the evaluator sees it."""

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
