"""The run that stands for the exact solution: finely spread where a sampler errs most."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from redi.samplers.base import Sampler
from redi.samplers.build import adapt, build_scheduler
from redi.samplers.catalogue import SAMPLERS
from redi.samplers.check import check_steps

SOLVER = "dpm_solver_pp"
#: timesteps from an end of the schedule within which strides grow by the shortest one
_GROWTH = 20
#: how many times as long as the shortest stride, which is at the ends, the longest is
_LONGEST = 5


def converged_timesteps(steps: int, trained: int) -> list[int]:
    """At most so many timesteps of a schedule, falling, from its first to its last one.

    Even strides converge slowly: the first step is of first order where noise hides all of the
    picture, and so is the last one, which is the longest of all in the logarithm of the noise. So
    strides are up to five times as short at both ends. With as many steps as the schedule has
    timesteps they are all of them.

    Args:
        steps: network calls, at least 2.
        trained: timesteps of the schedule.
    """
    if steps >= trained:
        return list(range(trained - 1, -1, -1))
    timesteps = np.arange(trained - 1, -1, -1)
    nearest = np.minimum(timesteps, trained - 1 - timesteps)
    density = 1 / np.minimum(_LONGEST, 1 + nearest / _GROWTH)
    passed = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    wanted = np.interp(np.linspace(0, passed[-1], steps), passed, timesteps)
    return sorted({int(t) for t in np.rint(wanted)}, reverse=True)


def converged_sampler(schedule: Mapping[str, Any], steps: int) -> Sampler:
    """DPM-Solver++ 2M on those timesteps of a model's noise schedule."""
    scheduler = build_scheduler(SOLVER, schedule, order=2, use_karras_sigmas=False)
    trained = int(scheduler.config.num_train_timesteps)
    check_steps(SOLVER, SAMPLERS[SOLVER], steps, trained, "metrics.converged_steps")
    scheduler.set_timesteps(timesteps=converged_timesteps(steps, trained))
    return adapt(scheduler, "metrics.converged_steps")
