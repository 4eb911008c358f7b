"""One linear map from a patch to the correction at its centre, fitted over all positions.

The truncation error of a step is largely a local, translation-equivariant function of what the
sampler holds, so a few hundred unknowns are fitted to K x H x W equations in closed form and hold
for noises that no trajectory started from.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from redi.lazy import Tensor, functional, torch
from redi.methods.corrected.groups import all_different, renumbered

RIDGES = (1e-5, 1e-4, 1e-3, 1e-2)
_CHUNK = 64  # trajectories whose patches are in memory at once


@dataclass(frozen=True)
class PatchRidge:
    """A convolution with bias, reflected at the border."""

    weight: Tensor  # (C, F, p, p)
    bias: Tensor  # (C,)
    patch: int
    ridge: float

    def __call__(self, planes: Tensor) -> Tensor:
        """Feature planes (B, F, H, W) to corrections (B, C, H, W), float32."""
        return functional.conv2d(_reflect(planes.float(), self.patch), self.weight, self.bias)

    def to(self, device: torch.device) -> PatchRidge:
        """The same map on another device."""
        return replace(self, weight=self.weight.to(device), bias=self.bias.to(device))


def fit_local(
    planes: Tensor,
    targets: Tensor,
    patches: tuple[int, ...],
    folds: int = 8,
    ridges: tuple[float, ...] = RIDGES,
    groups: Tensor | None = None,
) -> tuple[PatchRidge, Tensor, dict[tuple[int, float], float]]:
    """Fit with the patch size and ridge of the least error on left-out trajectories.

    planes (K, F, H, W), targets (K, C, H, W). The trajectories of group i (K,), which repeat one
    another, belong to fold i mod `folds`; without groups trajectory i does. Returns the map, the
    predictions (K, C, H, W) of the maps that left each trajectory's fold out, and the mean squared
    error of each choice.
    The normal equations of the largest patch hold those of the smaller ones, and a fold's error
    follows from them, so the data are read twice whatever is tried.
    """
    groups = all_different(len(planes)) if groups is None else renumbered(groups)
    folds, largest = min(folds, len(groups.unique())), max(patches)
    if folds < 2:
        raise ValueError("fit_local needs at least two different trajectories")
    parts = [(groups % folds == fold).nonzero()[:, 0].to(planes.device) for fold in range(folds)]
    depth, channels = planes.shape[1], targets.shape[1]
    size = depth * largest**2 + 1
    empty = torch.zeros((), dtype=torch.float64, device=planes.device)
    gram, cross = empty.new_zeros(folds, size, size), empty.new_zeros(folds, size, channels)
    square = empty.new_zeros(folds)
    for fold, own_rows in enumerate(parts):
        for rows in own_rows.split(_CHUNK):
            design = _design(planes[rows], largest)  # (k H W, size)
            wanted = targets[rows].double().movedim(1, -1).flatten(0, -2)  # (k H W, C)
            gram[fold] += design.mT @ design
            cross[fold] += design.mT @ wanted
            square[fold] += wanted.square().sum()
    total, total_cross, count = gram.sum(0), cross.sum(0), targets.numel()
    errors: dict[tuple[int, float], float] = {}
    best: tuple[float, int, float, list[Tensor]] | None = None
    for patch in patches:
        keep = _inner(depth, largest, patch)
        for ridge in ridges:
            maps, error = [], 0.0
            for fold in range(folds):
                own, own_cross = gram[fold][keep][:, keep], cross[fold][keep]
                solved = _solve(total[keep][:, keep] - own, total_cross[keep] - own_cross, ridge)
                explained = 2 * (solved * own_cross).sum() - (solved * (own @ solved)).sum()
                error += float(square[fold] - explained)
                maps.append(solved)
            errors[patch, ridge] = error / count
            if best is None or errors[patch, ridge] < best[0]:
                best = errors[patch, ridge], patch, ridge, maps
    assert best is not None
    _, patch, ridge, maps = best
    left_out = empty.new_empty(targets.shape)
    for rows, solved in zip(parts, maps, strict=True):
        left_out[rows] = _as_map(solved, depth, patch, ridge)(planes[rows]).double()
    keep = _inner(depth, largest, patch)
    solved = _solve(total[keep][:, keep], total_cross[keep], ridge)
    return _as_map(solved, depth, patch, ridge), left_out, errors


def _reflect(planes: Tensor, patch: int) -> Tensor:
    margin = patch // 2
    return functional.pad(planes, (margin,) * 4, mode="reflect") if margin else planes


def _design(planes: Tensor, patch: int) -> Tensor:
    """Patches of every position as rows, a column of ones last."""
    columns = functional.unfold(_reflect(planes.double(), patch), patch)  # (k, F p p, H W)
    rows = columns.movedim(1, -1).flatten(0, 1)
    return torch.cat([rows, rows.new_ones(len(rows), 1)], 1)


def _inner(depth: int, largest: int, patch: int) -> Tensor:
    """Columns of the largest design that make the design of a smaller centred patch."""
    grid = torch.arange(depth * largest**2).reshape(depth, largest, largest)
    cut = (largest - patch) // 2
    inner = grid[:, cut : largest - cut, cut : largest - cut].flatten()
    return torch.cat([inner, torch.tensor([depth * largest**2])])


def _solve(gram: Tensor, cross: Tensor, ridge: float) -> Tensor:
    """Ridge relative to the mean diagonal; the constant is not shrunk."""
    penalty = torch.full((len(gram),), ridge * float(gram.diagonal()[:-1].mean()))
    penalty[-1] = 0
    return torch.linalg.solve(gram + torch.diag(penalty.to(gram)), cross)


def _as_map(solved: Tensor, depth: int, patch: int, ridge: float) -> PatchRidge:
    weight = solved[:-1].mT.reshape(-1, depth, patch, patch)
    return PatchRidge(weight.float(), solved[-1].float(), patch, ridge)
