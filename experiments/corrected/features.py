"""What a correction can be predicted from: python experiments/corrected/features.py

Single steps from the exact states of reference trajectories: what regressions fitted to 128 of them
leave over on 64 others, as a share of the uncorrected DDIM step's error. The kernel regression on
trajectories of one noise, the local map on noises that are all different; prints a table and writes
it to features.md beside this file.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from local import FITTED, TESTED, Run, embedded, exact_run, headings
from torch import Tensor

from redi.methods.corrected.features import FEATURES, fit_features
from redi.methods.corrected.kernel import Choice, fit_kernel
from redi.methods.corrected.local import fit_local
from redi.report.blocks import Grid
from redi.report.markdown import markdown_grid

CHOICES = [Choice("gaussian", w, r) for w in (1.0, 2.0, 4.0) for r in (1e-4, 1e-3, 1e-2, 1e-1)]
HISTORY = ("prediction", "clean", "previous", "earlier")
SETS: dict[str, tuple[str, ...]] = {
    "prediction": ("prediction",),
    "predicted clean latents": ("clean",),
    "guidance difference": ("guidance",),
    "both predictions": ("prediction", "clean"),
    "both predictions and two earlier ones": HISTORY,
    "the same and guidance differences (default)": FEATURES,
}
_PROMPT_PLANES = 8
Predict = Callable[[Tensor], Tensor]


def components(rows: Tensor, count: int) -> Predict:
    """Coordinates of rows in the principal components of the fitted ones (K, F)."""
    centre = rows.mean(0)
    basis = torch.linalg.svd(rows - centre, full_matrices=False).Vh[:count].mT  # (F, count)
    return lambda others: (others - centre) @ basis


def planes_of(run: Run, level: int, names: tuple[str, ...]) -> Tensor:
    visits = run.visits[: level + 1]
    same = torch.zeros(FITTED + TESTED, dtype=torch.long)
    return fit_features(names, visits, same)(visits)


def prompt_of(run: Run, size: int) -> Tensor:
    """Prompt embeddings (K, E) that weigh as much as a feature block of `size` numbers."""
    rows = run.embedding.flatten(1).double()
    spread = (rows - rows.mean(0)).square().sum(1).mean().sqrt()
    return (rows / spread * size**0.5).float()


def kernel_left(inputs: Tensor, error: Tensor, rank: int | None = None) -> float:
    """Share that a kernel regression leaves; its output cut to `rank` principal components."""
    targets = error.flatten(1)
    guess = fit_kernel(inputs[:FITTED], targets[:FITTED], CHOICES)[0](inputs[FITTED:]).double()
    if rank is not None:
        centre = targets[:FITTED].mean(0)
        basis = torch.linalg.svd(targets[:FITTED] - centre, full_matrices=False).Vh[:rank]
        guess = centre + (guess - centre) @ basis.mT @ basis
    return float((guess - targets[FITTED:]).norm() / targets[FITTED:].norm())


def local_left(planes: Tensor, error: Tensor) -> float:
    guess = fit_local(planes[:FITTED], error[:FITTED], (3,))[0](planes[FITTED:]).double()
    return float((guess - error[FITTED:]).norm() / error[FITTED:].norm())


def kernel_rows(run: Run) -> dict[str, list[float]]:
    """Kernel regressions on whole pictures, by what they are given."""
    levels = range(len(run.errors))
    found: dict[str, list[float]] = {}
    for label, names in SETS.items():
        found[label] = [
            kernel_left(planes_of(run, i, names).flatten(1), run.errors[i]) for i in levels
        ]
    everything = [planes_of(run, i, FEATURES).flatten(1) for i in levels]
    prompt = prompt_of(run, run.errors[0][0].numel())
    found["prompt embedding"] = [kernel_left(prompt, e) for e in run.errors]
    found["default and prompt embedding"] = [
        kernel_left(torch.cat([everything[i], prompt], 1), run.errors[i]) for i in levels
    ]
    for count in (16, 64):
        found[f"default, in {count} principal components"] = [
            kernel_left(components(x[:FITTED], count)(x), e)
            for x, e in zip(everything, run.errors, strict=True)
        ]
        found[f"default, correction of rank {count}"] = [
            kernel_left(x, e, count) for x, e in zip(everything, run.errors, strict=True)
        ]
    return found


def local_rows(run: Run) -> dict[str, list[float]]:
    """3 x 3 patch maps, by what they are given."""
    levels = range(len(run.errors))
    found = {
        label: [local_left(planes_of(run, i, names), run.errors[i]) for i in levels]
        for label, names in SETS.items()
    }
    prompt = prompt_of(run, 1)
    few = components(prompt[:FITTED], _PROMPT_PLANES)(prompt)
    wide = few[:, :, None, None].expand(-1, -1, *run.errors[0].shape[-2:])
    found["default and prompt embedding"] = [
        local_left(torch.cat([planes_of(run, i, FEATURES), wide], 1), run.errors[i]) for i in levels
    ]
    return found


def main() -> None:
    model, chosen = embedded()
    rows: list[list[list[tuple[str, bool]]]] = []
    for regression, policy, measure in (
        ("kernel, one noise", "shared", kernel_rows),
        ("kernel, unseen noises", "per_prompt", kernel_rows),
        ("local map, unseen noises", "per_prompt", local_rows),
    ):
        for label, left in measure(exact_run(chosen, model, policy)).items():
            shares = [[(f"{share:.2f}", False)] for share in left]
            rows.append([[(regression, False)], [(label, False)], *shares])
    text = markdown_grid(Grid(["regression", "from", *headings(chosen)], 2, rows)) + "\n"
    Path(__file__).with_suffix(".md").write_text(text)
    print(text, end="")


if __name__ == "__main__":
    main()
