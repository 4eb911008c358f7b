"""Steps on the levels of a plan are the plain sampler's, for every grid of timesteps."""

from __future__ import annotations

import torch
from hypothesis import example, given, reject, settings
from hypothesis import strategies as st

from redi.errors import UsageError
from redi.methods.few.bases import Visit, base_step
from redi.methods.few.placement import plan
from redi.models.mixture import SCHEDULE
from redi.samplers import SAMPLERS, build_sampler


def curved(latents: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
    return torch.tanh(latents) + 0.1 * torch.sin(3 * latents + timestep / 300)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(["ddim", "dpm_solver_pp", "unipc"]),
    st.sampled_from(["trailing", "leading", "linspace"]),
    st.integers(1, 64),
    st.sampled_from([0, 1]),
)
@example("dpm_solver_pp", "trailing", 61, 0)
def test_steps_on_a_plan_are_those_of_the_unmodified_scheduler(
    name: str, spacing: str, steps: int, offset: int
) -> None:
    """The scheduler's own loop in float64, beside a run over all of its levels."""
    try:
        sampler = build_sampler(name, {**SCHEDULE, "steps_offset": offset}, steps, spacing)
    except UsageError:  # some numbers of steps are not joined by as many levels
        reject()
    scheduler = SAMPLERS[name].scheduler_class.from_config(sampler.scheduler.config)
    scheduler.set_timesteps(steps)
    latents = torch.randn(1, 2, 3, 3, generator=torch.Generator().manual_seed(steps)).double()
    chosen = plan(sampler, len(scheduler.timesteps))  # 62 where 61 are asked for, trailing
    alpha, rho = (level.tolist() for level in (chosen.alpha, chosen.rho))
    y, visits = latents / alpha[0], list[Visit]()
    for level, timestep in enumerate(scheduler.timesteps):
        assert torch.equal(timestep, chosen.timestep(level))
        visits.append(Visit(rho[level], y, curved(alpha[level] * y, timestep)))
        y = base_step(chosen, name, level, visits)
        latents = scheduler.step(curved(latents, timestep), timestep, latents).prev_sample
    mine = alpha[-1] * y
    assert float((mine - latents).norm() / latents.norm()) < 1e-4
