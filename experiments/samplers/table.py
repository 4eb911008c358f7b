"""Every sampler with its own trajectory put back: errors by resume policy, and network calls.

    python experiments/samplers/table.py

runs each sampler on a smooth nonlinear stand-in for a network, cuts the run at every value step
that a jump may land on, resumes from the very latents that the run had there, and compares the
final latents with the uninterrupted run's. It prints the table and writes it to `table.md`.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from redi.samplers import SAMPLERS, Sampler, SamplerState, build_sampler

STEPS = 20
#: sampler name and options
ROWS: list[tuple[str, dict]] = [
    ("ddim", {}),
    ("pndm", {}),
    ("pndm_prk", {}),
    ("dpm_solver", {"order": 2}),
    ("dpm_solver", {"order": 3}),
    ("dpm_solver_pp", {"order": 2}),
    ("dpm_solver_pp", {"order": 3}),
    ("dpm_solver_pp", {"order": 2, "use_karras_sigmas": True}),
    ("dpm_solver_single", {"order": 2}),
    ("dpm_solver_single", {"order": 3}),
    ("unipc", {"order": 2}),
    ("deis", {"order": 2}),
    ("deis", {"order": 3}),
    ("euler", {}),
    ("heun", {}),
    ("flow_euler", {}),
    ("flow_heun", {}),
]
SCHEDULE = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "epsilon",
    "steps_offset": 1,
    "set_alpha_to_one": False,
    "clip_sample": False,
}
FLOW = {"num_train_timesteps": 1000, "shift": 3.0}
#: network calls that the method is known to make in N updates
EXPECTED = {"pndm": STEPS + 1, "pndm_prk": STEPS + 9, "heun": 2 * STEPS - 1}
EXPECTED["flow_heun"] = EXPECTED["heun"]


class Network:
    """A smooth nonlinear stand-in that counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, latents: Tensor, timestep: Tensor) -> Tensor:
        self.calls += 1
        mixed = latents + 0.3 * latents.roll(1, dims=1)
        return torch.tanh(mixed) + 0.1 * torch.sin(3 * latents + timestep / 300)


def errors(sampler: Sampler, states: list[SamplerState], policy: str, predict: Network) -> Tensor:
    """Relative errors of the final latents, one per value step that allows the policy."""
    full, found = states[-1].latents, []
    for state in states[:-1]:
        if sampler.can_resume(state.step, policy):
            history = state.history if policy == "retrieved" else ()
            back = sampler.resume(state.step, state.latents, policy, history)
            end = sampler.finish(back, predict).latents
            found.append((end - full).norm() / full.norm())
    return torch.stack(found)


def row(name: str, options: dict) -> str:
    """One line of the table: the largest error of each policy, the median in brackets."""
    kind = SAMPLERS[name]
    spacing = "leading" if "timestep_spacing" in kind.options else None
    sampler = build_sampler(name, FLOW if kind.flow else SCHEDULE, STEPS, spacing, **options)
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    counted = Network()
    states = [r.state for r in sampler.records(sampler.initial(noise), counted)]
    calls = counted.calls
    cells = []
    for policy in ("retrieved", "rewarm", "legacy"):
        found = errors(sampler, states, policy, Network())
        zero = not found.any()
        cells.append("0" if zero else f"{float(found.max()):.1e} ({float(found.median()):.1e})")
    landing = sum(sampler.can_resume(s, "rewarm") for s in range(1, STEPS + 1))
    label = ", ".join([name, *(f"{k}={v}" for k, v in options.items())])
    expected = EXPECTED.get(name, STEPS)
    return f"| {label} | {' | '.join(cells)} | {calls} | {expected} | {landing} of {STEPS} |"


def main() -> None:
    """Print the table and write it beside this file."""
    head = (
        "| sampler | restore | rewarm | legacy | calls | expected | value steps |\n"
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |\n"
    )
    table = head + "\n".join(row(name, options) for name, options in ROWS) + "\n"
    text = (
        f"# Own trajectory put back, N = {STEPS}\n\n"
        "Relative error of the final latents against the uninterrupted run when the run's own "
        "latents are put back at a value step: the largest over all value steps (the median in "
        "brackets). `restore` carries the saved history over (`retrieval.resume=retrieved`), "
        "`rewarm` starts again at first order (the default), `legacy` is a fresh scheduler, as in "
        "the published code. Calls are counted where the network is called. "
        "Made by `python experiments/samplers/table.py`.\n\n"
    )
    print(table, end="")
    Path(__file__).with_name("table.md").write_text(text + table)


if __name__ == "__main__":
    main()
