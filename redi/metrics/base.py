"""What a metric is, and the registry that configuration, tables and plots read.

A metric is one file of this folder: a class under `@metric`. It says what its columns mean, what it
needs, what it measures on a batch and what it makes of the whole table.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import numpy as np

from redi.config import Config
from redi.metrics.batch import BatchResult, Columns, Table
from redi.metrics.intervals import Estimate, bootstrap_mean

#: where a quality is shown: in every table, where some row has it, or in files alone
ALWAYS, PRESENT, FILES = "always", "where present", "files"

Fields = dict[str, Estimate | float]


@dataclass(frozen=True)
class Quality:
    """What a column of the results means.

    `column` is the per-picture column whose mean it is, None for a score of the whole set. `loss`
    is the most that a method may lose against full sampling and still count as equal: in the unit
    of the quality, or a share of full sampling's value with `relative_loss`; None: never judged.
    """

    name: str
    title: str
    higher_is_better: bool = True
    unit: str = ""
    shown: str = PRESENT
    #: columns of tables and panels of plots stand in this order, then by name
    place: int = 99
    column: str | None = None
    #: one of the few that plots and verdicts are about
    headline: bool = False
    loss: float | None = None
    relative_loss: bool = False
    #: whether tables mark the best of it
    ranked: bool = True
    #: whether tables show the interval
    margin: bool = True
    #: what tables multiply it by, and write behind it
    scale: float = 1.0
    suffix: str = ""
    #: several qualities share a cell of the table under this heading, as whole percentages
    cell: str = ""

    @property
    def heading(self) -> str:
        return f"{self.title} ({self.unit})" if self.unit else self.title


class Metric(ABC):
    """One metric of a run.

    `group` is the word in `metrics.hooks` that brings it (its own name does too); `needs` names
    what `redi.metrics.needs` loads for it, shared by all metrics that need the same.
    """

    name: ClassVar[str]
    group: ClassVar[str]
    qualities: ClassVar[tuple[Quality, ...]]
    needs: ClassVar[tuple[str, ...]] = ()

    def __init__(self, config: Config, needs: Mapping[str, Any]) -> None:
        self.config, self.resamples = config, config.metrics.resamples
        for name in self.needs:
            setattr(self, name, needs[name])

    @classmethod
    def check(cls, config: Config) -> None:
        """Refuse, before any work, a configuration that it cannot be measured under."""
        return

    @classmethod
    def applies(cls, config: Config) -> bool:
        """Whether a run of this configuration has what is measured."""
        return True

    @abstractmethod
    def measure(self, batch: BatchResult) -> dict[str, Columns]:
        """Per-picture columns of each entry that has them; vectors stay out of the files."""

    @abstractmethod
    def summarise(self, table: Table, entry: str) -> Fields:
        """Fields of the entry's point; an `Estimate` brings its interval."""

    def mean(self, table: Table, entry: str, column: str) -> Estimate | None:
        """The mean over prompts with its interval; None where the entry lacks the column."""
        values = table.by_prompt(entry, column)
        return None if values is None else bootstrap_mean(values, resamples=self.resamples)


class PerPicture(Metric):
    """A metric with one value per picture, summarised by its mean over prompts."""

    def measure(self, batch: BatchResult) -> dict[str, Columns]:
        found = {entry: self.values(batch, entry) for entry in batch.outcomes}
        return {entry: {self.name: v} for entry, v in found.items() if v is not None}

    @abstractmethod
    def values(self, batch: BatchResult, entry: str) -> np.ndarray | None:
        """One value per picture of an entry (B,); None where it has none."""

    def summarise(self, table: Table, entry: str) -> Fields:
        found = self.mean(table, entry, self.name)
        return {} if found is None else {self.name: found}


METRICS: dict[str, type[Metric]] = {}
M = TypeVar("M", bound=type[Metric])


def metric(cls: M) -> M:
    """Register a metric; its group is its own name where it says none."""
    if not hasattr(cls, "group"):
        cls.group = cls.name
    METRICS[cls.name] = cls
    return cls


def single(name: str, title: str, **options: Any) -> tuple[Quality, ...]:
    """The qualities of a metric with one value per picture."""
    return (Quality(name, title, column=name, **options),)
