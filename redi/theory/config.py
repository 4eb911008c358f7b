"""Settings of the theory checks."""

from __future__ import annotations

from dataclasses import dataclass, field

from redi.config import DataConfig, ModelConfig
from redi.errors import UsageError
from redi.ranges import within
from redi.retrieval import WEIGHTS


@dataclass
class TheoryConfig:
    """What `redi theory` runs; steps are counted in completed updates.

    Attributes:
        steps: updates of a full run.
        timestep_spacing: grid of the sampler; call and state levels must coincide on it.
        key_step: step of the keys, at least 1.
        value_steps: candidate steps to jump to, ascending.
        neighbours: neighbours per query, each one a pair.
        weights: of the neighbours, for every estimator; one of `redi.retrieval.WEIGHTS`.
        resume: history after a jump, `rewarm` or `retrieved`.
        quantiles: quantiles of the constants that plug-in bounds are made from; the last one is
            used for correlations and scores.
        calibration_share: share of the queries that the plug-in constants are estimated from.
        tolerance: relative error of the final latent that adaptive skipping may make; None takes
            the median error at the middle value step over the calibration queries.
        levels: accepted shares of queries beyond the tolerance.
        splits: random splits of the remaining queries into calibration and test.
        perturbation: relative change of one coefficient that the certificate must detect.
        order_steps: step counts of the convergence study, multiples of 5 that divide 1000.
        correction_calls: network calls of the corrected runs that are followed; empty for none.
        batch_size: rows that the network sees at once.
        seed: draws the shared noise, the random neighbours and the splits.
    """

    steps: int = 20
    timestep_spacing: str | None = "trailing"
    key_step: int = 4
    value_steps: tuple[int, ...] = (6, 8, 10, 12, 14, 16)
    neighbours: int = 8
    weights: str = "affine"
    resume: str = "rewarm"
    quantiles: tuple[float, ...] = (0.5, 0.75, 0.9)
    calibration_share: float = 0.4
    tolerance: float | None = None
    levels: tuple[float, ...] = (0.05, 0.1, 0.2)
    splits: int = 50
    perturbation: float = 0.01
    order_steps: tuple[int, ...] = (40, 50, 100, 125, 200)
    correction_calls: tuple[int, ...] = (2, 4, 5, 10)
    batch_size: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        values = tuple(sorted(self.value_steps))
        if not values or values != tuple(self.value_steps) or len(set(values)) != len(values):
            raise UsageError(
                f"theory.value_steps={self.value_steps} is not ascending: list distinct steps"
            )
        if not 0 < self.key_step < values[0] or values[-1] > self.steps:
            raise UsageError(
                f"theory.key_step={self.key_step} and value_steps={self.value_steps} do not fit: "
                f"use 0 < key_step < value_steps <= steps={self.steps}"
            )
        if self.weights not in WEIGHTS:
            raise UsageError(
                f"theory.weights={self.weights!r} is unknown: use one of {', '.join(WEIGHTS)}"
            )
        if self.resume not in ("rewarm", "retrieved"):
            raise UsageError(f"theory.resume={self.resume!r} has no bound: use rewarm or retrieved")
        if not 0 < self.calibration_share < 1:
            raise UsageError(
                f"theory.calibration_share={self.calibration_share} is no share: use 0.4 or so"
            )
        if any(step % 5 or 1000 % step for step in self.order_steps) or len(self.order_steps) < 2:
            raise UsageError(
                f"theory.order_steps={self.order_steps} is unusable: "
                "list at least two multiples of 5 that divide 1000"
            )
        if bad := [n for n in self.correction_calls if not 1 <= n <= self.steps]:
            raise UsageError(
                f"theory.correction_calls has {bad[0]}: use numbers from 1 to steps={self.steps}"
            )
        for name in ("neighbours", "splits", "batch_size"):
            value = getattr(self, name)
            if value < 1:
                raise UsageError(f"theory.{name}={value} is too small: use at least 1")
        for name, numbers in (("quantiles", self.quantiles), ("levels", self.levels)):
            if not numbers or not all(0 < number <= 1 for number in numbers):
                raise UsageError(f"theory.{name}={numbers} must lie in (0, 1]: use for example 0.9")


@dataclass
class TheoryRunConfig:
    """`redi theory`: which model, samplers and prompts the bounds are checked on."""

    samplers: list[str] = field(
        default_factory=lambda: ["ddim", "pndm", "dpm_solver", "dpm_solver_pp"]
    )
    queries: int = within(256, 2)
    #: KB prompts; the analytic model always uses all that are left
    entries: int = within(440, 1)
    guidance_scale: float = within(2.0, 0, 100)
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    theory: TheoryConfig = field(default_factory=TheoryConfig)
    #: where results.json and the figures go
    run_dir: str = "outputs/theory"
