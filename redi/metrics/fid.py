"""FID and KID: Inception's features by the clean-fid protocol, against real pictures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from redi.config import Config
from redi.metrics.base import Fields, Metric, Quality, metric
from redi.metrics.batch import BatchResult, Columns, Table
from redi.metrics.frechet import fit_gaussian, frechet_distance, kernel_distance
from redi.metrics.needs import InceptionFeatures


class _OnInception(Metric):
    group, needs = "inception", ("inception",)
    inception: InceptionFeatures
    real: np.ndarray

    def __init__(self, config: Config, needs: Mapping[str, Any]) -> None:
        super().__init__(config, needs)
        self.real = self.inception.real  # before the run: what is missing is refused at once

    def measure(self, batch: BatchResult) -> dict[str, Columns]:
        return self.inception.columns(batch)


@metric
class Kid(_OnInception):
    """Unbiased in the number of pictures, so always there."""

    name = "kid"
    qualities = (Quality("kid", "KID", higher_is_better=False, place=57),)

    def summarise(self, table: Table, entry: str) -> Fields:
        features = table.column(entry, self.inception.column)
        return {} if features is None else {"kid": kernel_distance(features, self.real)}


@metric
class Fid(_OnInception):
    """Needs as many pictures as features (2048) unless `metrics.allow_few`."""

    name = "fid"
    qualities = (Quality("fid", "FID", higher_is_better=False, place=56),)

    def summarise(self, table: Table, entry: str) -> Fields:
        mine, real = table.column(entry, self.inception.column), self.real
        few = self.config.metrics.allow_few
        if mine is None or not (few or min(len(mine), len(real)) >= mine.shape[1]):
            return {}
        return {"fid": frechet_distance(fit_gaussian(mine, few), fit_gaussian(real, few))}
