"""What else a local correction could be: python experiments/corrected/local.py

Single steps from the exact states of reference trajectories, each from a noise of its own: what
maps fitted to 128 of them leave over on 64 others, as a share of the uncorrected DDIM step's error.
Prints a table and writes it to local.md beside this file.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from redi.data.noise import NoisePolicy
from redi.embedded.captions import prompts
from redi.methods import Query, Setup
from redi.methods.corrected.features import FEATURES, fit_features
from redi.methods.corrected.kernel import Choice, fit_kernel
from redi.methods.corrected.local import fit_local
from redi.methods.few import Plan
from redi.methods.few.bases import BASES, Visit
from redi.methods.few.placement import plan
from redi.methods.few.run import look
from redi.methods.plain import Full
from redi.methods.solve import Network, solve
from redi.models.text_to_image import TextToImageModel, load_pipeline
from redi.report.blocks import Grid
from redi.report.markdown import markdown_grid
from redi.samplers import build_sampler
from redi.verbs.assemble import EMBEDDED_MODEL

FITTED, TESTED, STEPS, CALLS, BATCH = 128, 64, 24, 5, 16
RIDGES = (1e-5, 1e-4, 1e-3, 1e-2)
Map = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Step:
    """One step of all trajectories: feature planes (K, F, H, W) and its error (K, C, H, W)."""

    planes: Tensor
    error: Tensor

    def part(self, start: int, stop: int) -> Step:
        return Step(self.planes[start:stop], self.error[start:stop])


def linear(patch: int) -> Callable[[Step], Map]:
    """The patch map that redi fits."""
    return lambda step: fit_local(step.planes, step.error, (patch,), ridges=RIDGES)[0]


def flipped(step: Step) -> Map:
    """The same with every trajectory's mirror image beside it."""
    planes, error = (torch.cat([t, t.flip(-1)]) for t in (step.planes, step.error))
    return fit_local(planes, error, (3,), ridges=RIDGES)[0]


def regions(step: Step) -> Map:
    """A map of its own for each quarter of the picture."""
    height, width = (side // 2 for side in step.planes.shape[-2:])
    quarters = [
        (slice(None), slice(None), slice(top, top + height), slice(left, left + width))
        for top in (0, height)
        for left in (0, width)
    ]
    maps = [
        fit_local(step.planes[q].contiguous(), step.error[q].contiguous(), (3,), ridges=RIDGES)[0]
        for q in quarters
    ]

    def apply(planes: Tensor) -> Tensor:
        whole = torch.zeros(len(planes), *step.error.shape[1:])
        for quarter, found in zip(quarters, maps, strict=True):
            whole[quarter] = found(planes[quarter].contiguous())
        return whole

    return apply


def random_features(count: int) -> Callable[[Step], Map]:
    """Random ReLU features of 3 x 3 patches beside the linear ones: local, but not linear."""

    def fit(step: Step) -> Map:
        generator, depth = torch.Generator().manual_seed(0), step.planes.shape[1]
        weight = torch.randn(count, depth, 3, 3, generator=generator) / (9 * depth) ** 0.5
        bias = 0.5 * torch.randn(count, generator=generator)

        def widened(planes: Tensor) -> Tensor:
            reflected = functional.pad(planes, (1,) * 4, mode="reflect")
            hidden = functional.conv2d(reflected, weight, bias).relu()
            near = functional.unfold(reflected, 3).reshape(len(planes), -1, *planes.shape[-2:])
            return torch.cat([near, hidden], 1)

        found = fit_local(widened(step.planes), step.error, (1,), ridges=RIDGES)[0]
        return lambda planes: found(widened(planes))

    return fit


def kernel(step: Step) -> Map:
    """Kernel regression on whole pictures, which a noise of its own makes of little use."""
    choices = [Choice("gaussian", w, r) for w in (1.0, 2.0, 4.0) for r in (1e-3, 1e-2, 1e-1)]
    found, _, _ = fit_kernel(step.planes.flatten(1), step.error.flatten(1), choices)
    return lambda planes: found(planes.flatten(1)).reshape(len(planes), *step.error.shape[1:])


VARIANTS: dict[str, Callable[[Step], Map]] = {
    "linear, 1 x 1": linear(1),
    "linear, 3 x 3": linear(3),
    "linear, 5 x 5": linear(5),
    "linear, 3 x 3, mirror images too": flipped,
    "linear, 3 x 3, one for each quarter": regions,
    "3 x 3 and 256 random ReLU features": random_features(256),
    "kernel over whole pictures": kernel,
}


@dataclass(frozen=True)
class Run:
    """Reference trajectories on a plan: visits by level, errors (K, C, H, W) of DDIM's steps."""

    visits: list[Visit]
    errors: list[Tensor]
    embedding: Tensor  # (K, E) of the prompts


def exact_run(chosen: Plan, model: TextToImageModel, policy: str) -> Run:
    """The coarse steps of all trajectories from exact states."""
    count, noise = FITTED + TESTED, NoisePolicy(policy)
    texts = prompts("kb", count)[1]
    states: dict[int, list[Tensor]] = {step: [] for step in chosen.steps}
    conditionings = [model.encode(texts[i : i + BATCH]) for i in range(0, count, BATCH)]
    for i, conditioning in zip(range(0, count, BATCH), conditionings, strict=True):
        start = noise.draw([noise.kb_id(j) for j in range(i, i + BATCH)], model.latent_shape)
        query = Query(start, (0,) * BATCH, tuple(range(i, i + BATCH)))
        full = Full().bind(Setup(chosen.sampler))
        outcome = solve(full, query, model, conditioning, watch=chosen.steps[1:])
        found = {0: chosen.sampler.initial(start).latents} | outcome.watched
        for step in chosen.steps:
            states[step].append(found[step].double() / chosen.sampler.levels.alpha[step])
    exact = [torch.cat(states[step]) for step in chosen.steps]
    networks = [Network(model, {"own": said, "early": said}) for said in conditionings]
    visits, errors = list[Visit](), list[Tensor]()
    for level in range(chosen.calls):
        visits.append(_look(chosen, level, exact[level], networks))
        last = level == chosen.calls - 1
        errors.append(exact[level + 1] - BASES["ddim"](visits, float(chosen.rho[level + 1]), last))
    return Run(visits, errors, torch.cat([c.embedding for c in conditionings]))


def _look(chosen: Plan, level: int, y: Tensor, networks: list[Network]) -> Visit:
    """What the network says about all trajectories at a level."""
    parts = []
    for part, network in zip(y.split(BATCH), networks, strict=True):
        calls = look(chosen, level, part, torch.zeros(()))
        try:
            calls.send(network.answer(next(calls)))
        except StopIteration as end:
            parts.append(end.value[0])
    guidance = torch.cat([p.guidance for p in parts if p.guidance is not None])
    return Visit(parts[0].rho, y, torch.cat([p.noise for p in parts]), guidance)


def steps(run: Run) -> list[Step]:
    """All feature planes of every step, each block scaled over all trajectories."""
    same = torch.zeros(FITTED + TESTED, dtype=torch.long)
    made = []
    for level, error in enumerate(run.errors):
        visits = run.visits[: level + 1]
        made.append(Step(fit_features(FEATURES, visits, same)(visits), error))
    return made


def embedded() -> tuple[TextToImageModel, Plan]:
    """The model that ships with redi, and five calls on late levels of 24 steps."""
    pipeline = load_pipeline(EMBEDDED_MODEL, torch.float32, torch.device("cpu"))
    model = TextToImageModel(pipeline, guidance_scale=3.0, batch_size=BATCH)
    sampler = build_sampler("dpm_solver_pp", model.scheduler_config, STEPS, "trailing")
    return model, plan(sampler, CALLS, "late1.4")


def headings(chosen: Plan) -> list[str]:
    return [f"step {a} to {b}" for a, b in zip(chosen.steps[:-1], chosen.steps[1:], strict=True)]


def main() -> None:
    model, chosen = embedded()
    known = steps(exact_run(chosen, model, "per_prompt"))
    rows: list[list[list[tuple[str, bool]]]] = []
    for name, fit in VARIANTS.items():
        left = []
        for step in known:
            fresh = step.part(FITTED, FITTED + TESTED)
            rest = fit(step.part(0, FITTED))(fresh.planes).double() - fresh.error
            left.append(float(rest.norm() / fresh.error.norm()))
        rows.append([[(name, False)], *([(f"{share:.2f}", False)] for share in left)])
    text = markdown_grid(Grid(["map", *headings(chosen)], 1, rows)) + "\n"
    Path(__file__).with_suffix(".md").write_text(text)
    print(text, end="")


if __name__ == "__main__":
    main()
