"""Fitting the corrections of a plan to the trajectories of a knowledge base, level by level.

At each level all trajectories take the base sampler's large step; what separates the result from
the reference trajectory is the step's truncation error, and closed-form regressions learn it. With
`visited` states the trajectories then go on from the corrected result *as predicted by regressions
that left them out*, so later steps are fitted to the states and errors that queries will have, and
a correction also repairs what earlier ones left over. That costs one network call per trajectory
and level. With `exact` states every level starts from the reference.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from redi.errors import UsageError
from redi.lazy import Tensor, torch
from redi.methods.corrected.corrector import PARTS, Correction, Kernels, StepCorrection
from redi.methods.corrected.features import FEATURES, fit_features
from redi.methods.corrected.groups import all_different
from redi.methods.corrected.kernel import KERNELS, Choice, KernelFit, KernelRidge
from redi.methods.corrected.local import PatchRidge, fit_local
from redi.methods.corrected.nearest import NearestRidge, fit_nearest
from redi.methods.few.bases import BASES, Visit, base_step
from redi.methods.few.placement import check_levels
from redi.methods.few.plan import Plan
from redi.methods.few.run import look, opening
from redi.samplers import Calls

STATES = ("visited", "exact")


@dataclass(frozen=True)
class Recipe:
    """How corrections are fitted. Everything that has alternatives is chosen by left-out error."""

    base: str = "ddim"
    states: str = "visited"
    parts: tuple[str, ...] = PARTS
    features: tuple[str, ...] = FEATURES
    kernels: tuple[str, ...] = ("gaussian",)
    widths: tuple[float, ...] = (1.0, 2.0, 4.0)
    ridges: tuple[float, ...] = (1e-4, 1e-3, 1e-2, 1e-1)
    patches: tuple[int, ...] = (1, 3)
    folds: int = 8
    #: where the few levels lie (`redi.methods.few.placement`)
    levels: tuple[str, ...] = ("even",)
    #: trajectories that alternatives of `levels` are tried on
    trials: int = 64
    #: kernel regressions on so many nearest trajectories; None: on all
    nearest: int | None = None
    #: reference steps by which the best of `levels` are then moved, ever less, as long as that
    #: lowers the error; None: not at all
    refine: int | None = None

    @property
    def choices(self) -> list[Choice]:
        """Kernels, widths and ridges that are tried."""
        return [Choice(k, w, r) for k in self.kernels for w in self.widths for r in self.ridges]

    @property
    def quick(self) -> Recipe:
        """What stands for it while levels are moved: a map of single pixels."""
        return replace(self, parts=("none", "local"), patches=(1,))

    def __post_init__(self) -> None:
        for name, given in vars(self).items():  # configurations have lists
            if isinstance(given, list):
                object.__setattr__(self, name, tuple(given))
        for name, values, known in (
            ("base", (self.base,), tuple(BASES)),
            ("states", (self.states,), STATES),
            ("parts", self.parts, PARTS),
            ("kernels", self.kernels, KERNELS),
        ):
            for value in values:
                if value not in known:
                    raise UsageError(
                        f"correction.{name}={value!r} is unknown; use one of {', '.join(known)}"
                    )
        if bad := [p for p in self.patches if p < 1 or p % 2 == 0]:
            raise UsageError(f"correction.patches has {bad[0]}: use odd numbers from 1")
        for name, numbers in (("widths", self.widths), ("ridges", self.ridges)):
            if not numbers or min(numbers) <= 0:
                raise UsageError(f"correction.{name}={list(numbers)}: give positive numbers")
        if not self.parts or not self.patches or not self.kernels:
            raise UsageError("correction.parts, .patches and .kernels need at least one entry each")
        if self.folds < 2:
            raise UsageError(f"correction.folds={self.folds} is too small: use at least 2")
        for placement in self.levels:
            check_levels(placement, "correction.levels")
        if not self.levels:
            raise UsageError("correction.levels is empty: use at least ['even']")
        if self.nearest is not None and self.nearest < 1:
            raise UsageError(f"correction.nearest={self.nearest} is too small: use at least 1")
        if self.trials < 2:
            raise UsageError(f"correction.trials={self.trials} is too small: use at least 2")
        if self.refine is not None and self.refine < 1:
            raise UsageError(f"correction.refine={self.refine} is too small: use at least 1")
        if self.states != "visited" and (len(self.levels) > 1 or self.refine is not None):
            told = f"levels={list(self.levels)}" if self.refine is None else f"refine={self.refine}"
            raise UsageError(
                f"correction.{told} chooses by the error of left-out trajectories, which "
                f"correction.states={self.states} does not have: use one placement, refine=null"
            )


#: what is fitted where nothing else is asked for
STANDARD = Recipe(levels=("even", "late0.6", "late1.4", "late1.8", "late2.3"))


def fit_correction(
    plan: Plan,
    recipe: Recipe,
    reference: Callable[[int], Tensor],
    partitions: Tensor,
    start: Tensor,
    groups: Tensor | None = None,
) -> Calls[Correction]:
    """Fit all steps of a plan; asks for one network call of every trajectory at each level.

    Args:
        plan: the levels; `reference(i)` gives `y` (K, C, H, W) of all trajectories at level i > 0.
        recipe: what is fitted.
        partitions: noise partition of each trajectory (K,); kernels never look across.
        start: latents of the first call (K, C, H, W).
        groups: of trajectories that repeat one another (K,), which are left out together; None: no
            trajectory repeats another.
    """
    groups = all_different(len(partitions)) if groups is None else groups
    if len(groups.unique()) < 2:
        raise UsageError(
            f"kb.size={len(groups)} holds one trajectory that differs from the others, which is "
            "too few for correction: use at least 2 different prompts or noises"
        )
    visits, y = opening(plan, start)
    steps: list[StepCorrection] = []
    for level in plan.asked:
        here, _ = yield from look(plan, level, y, start)
        visits.append(here)
        target = reference(level + 1).double()
        base = base_step(plan, recipe.base, level, visits)
        residual = target - base
        _require_finite(residual, plan, level)
        step, left_out = fit_step(recipe, visits, residual, partitions, groups)
        steps.append(step)
        y = base + left_out if recipe.states == "visited" else target
    if recipe.states == "exact":
        return Correction(plan, recipe.base, tuple(steps), None)
    error = (y - target).flatten(1).norm(dim=1) / target.flatten(1).norm(dim=1)
    return Correction(plan, recipe.base, tuple(steps), error)


def _require_finite(residual: Tensor, plan: Plan, level: int) -> None:
    """Refuse a trajectory that would spoil the fit of all others."""
    bad = ~residual.flatten(1).isfinite().all(1)
    if bool(bad.any()):
        raise UsageError(
            f"trajectory {int(bad.nonzero()[0])} of the KB is not finite between step "
            f"{plan.steps[level]} and step {plan.steps[level + 1]}: its stored latents or the "
            "network's prediction hold NaN or an infinity, most often by overflow of float16 (use "
            "float32 or bfloat16), or leave it out ('redi kb subset')"
        )


def fit_step(
    recipe: Recipe, visits: list[Visit], residual: Tensor, partitions: Tensor, groups: Tensor
) -> tuple[StepCorrection, Tensor]:
    """The part with the least left-out error, and its left-out predictions (K, C, H, W)."""
    features = fit_features(recipe.features, visits, partitions)
    planes = features(visits)
    regress = _kernels_on(recipe, planes, partitions, groups)
    candidates: dict[str, tuple[PatchRidge | None, Kernels, Tensor]] = {}
    if "none" in recipe.parts:
        candidates["none"] = (None, {}, torch.zeros_like(residual))
    if {"local", "both"} & set(recipe.parts):
        local, guess, _ = fit_local(planes, residual, recipe.patches, recipe.folds, groups=groups)
        if "local" in recipe.parts:
            candidates["local"] = (local, {}, guess)
        if "both" in recipe.parts:
            kernels, rest = regress(residual - guess)
            candidates["both"] = (local, kernels, guess + rest)
    if "kernel" in recipe.parts:
        kernels, guess = regress(residual)
        candidates["kernel"] = (None, kernels, guess)
    errors = {
        name: float((guess - residual).square().mean())
        for name, (_, _, guess) in candidates.items()
    }
    best = min(errors, key=lambda name: errors[name])
    local_map, kernels, left_out = candidates[best]
    return StepCorrection(features, local_map, kernels, errors), left_out


def _kernels_on(
    recipe: Recipe, planes: Tensor, partitions: Tensor, groups: Tensor
) -> Callable[[Tensor], tuple[Kernels, Tensor]]:
    """Fits a residual (K, C, H, W) within each partition; gives left-out predictions as well."""
    parts = {int(p): (partitions == p).nonzero()[:, 0] for p in partitions.unique()}
    shared: dict[int, KernelFit] = {}

    def one(partition: int, targets: Tensor) -> tuple[KernelRidge | NearestRidge, Tensor]:
        rows = parts[partition]
        inputs, same = planes[rows].flatten(1), groups[rows]
        if recipe.nearest is not None:
            return fit_nearest(inputs, targets, recipe.choices, recipe.nearest, same)[:2]
        if partition not in shared:
            shared[partition] = KernelFit(inputs, same)
        return shared[partition].to(targets, recipe.choices)[:2]

    def regress(residual: Tensor) -> tuple[Kernels, Tensor]:
        kernels: Kernels = {}
        left_out = torch.empty_like(residual)
        for partition, rows in parts.items():
            kernels[partition], guess = one(partition, residual[rows].flatten(1))
            left_out[rows] = guess.reshape(residual[rows].shape)
        return kernels, left_out

    return regress
