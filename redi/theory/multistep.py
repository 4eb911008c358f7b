"""Which samplers are linear multistep methods, and their updates with what the bounds need.

The form and its coefficients are those of `redi.samplers.coefficients` (PROOF.md, proposition 1):

    y_{i+1} = carry_i y_i + gain_i sum_j weights_ij p_{i-j}

noise form (DDIM, Euler, flow Euler, PNDM, DPM-Solver, DEIS) or data form (DPM-Solver++). The other
samplers have no such form, and `WITHOUT_FORM` says why.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from redi.errors import UsageError
from redi.samplers import Sampler
from redi.samplers.coefficients import METHODS, Coefficients

#: Largest relative difference of two levels that are the same (float32 tables).
_SAME_LEVEL = 1e-5

_FIRST_ORDER = ("ddim", "euler", "flow_euler")
_DPM = ("dpm_solver", "dpm_solver_pp")
_EXPONENTIAL = (*_DPM, "deis")
#: Samplers whose updates are not of the form above, and why.
WITHOUT_FORM = {
    "unipc": "its corrector starts from a second, corrected state beside the one that the network "
    "sees",
    "dpm_solver_single": "the updates of a group start from the group's first state and not from "
    "the one before",
    "heun": "the second call of every update is made on a first guess of its result",
    "flow_heun": "the second call of every update is made on a first guess of its result",
    "pndm_prk": "the calls of its Runge-Kutta warm-up are made on guesses between two states",
}


@dataclass(frozen=True, kw_only=True)
class Update(Coefficients):
    """Coefficients of the update from step `index` to `index + 1`; `weights[j]` is `b_ij`."""

    index: int
    alpha: float
    rho: float
    #: weight of the update's own second call (only PNDM's first update, a trapezoid, has one)
    second_call: float = 0.0

    def prediction(self, y: Tensor, noise: Tensor) -> Tensor:
        """What this sampler combines: the noise `e` or the data `d = y - rho e`, float64."""
        return y - self.rho * noise.double() if self.data_form else noise.double()

    def apply(
        self, y: Tensor, predictions: Sequence[Tensor], second: Tensor | None = None
    ) -> Tensor:
        """`y_{i+1}` from `y_i` and the predictions, newest first, all of one shape."""
        y = super().apply(y, predictions)
        return y if second is None else y + self.gain * self.second_call * second

    def gap_bound(self, distance: Tensor, eta: Tensor, delta: Tensor) -> Tensor:
        """Bound on the difference of two predictions of this call.

        `||e - e'|| <= eta alpha Delta + delta` and `||d - d'|| <= Delta + rho ||e - e'||`
        (PROOF.md, proposition 2).
        """
        noise = eta * self.alpha * distance + delta
        return distance + self.rho * noise if self.data_form else noise

    @property
    def noise_gain(self) -> float:
        """Factor of the current noise prediction `e_i` in `y_{i+1}`: `h_i b_i0` in both forms."""
        return self.weights[0] * self.gain * (-self.rho if self.data_form else 1.0)

    @property
    def weight_norm(self) -> float:
        """`sum_j |b_ij|`."""
        return sum(abs(b) for b in self.weights)


def multistep(sampler: Sampler, start: int = 0, carried: int = 0) -> tuple[Update, ...]:
    """The updates `start` .. N - 1 of a run that holds `carried` predictions at `start`.

    A plain run is `multistep(sampler)`; a run resumed at `v` without history, which starts again
    at first order, is `multistep(sampler, v)`; one that continues with the full history is
    `multistep(sampler, v, sampler.history_after(v))`.

    Raises:
        UsageError: the sampler has no such form, the call levels are not the state levels, or an
            option of the scheduler makes its update nonlinear or of another family.
    """
    _check_scheduler(sampler)
    _check_levels(sampler)
    rho = sampler.levels.rho.tolist()
    if math.isinf(rho[start]):
        raise UsageError(
            f"sampler={sampler.name} starts from pure noise, where y = x / alpha does not exist: "
            "take its updates from step 1 on"
        )
    alpha = _network_alpha(sampler)
    updates = []
    for i in range(start, sampler.num_steps):
        order = min(min(carried + i - start, sampler.history_size) + 1, _order_cap(sampler, i))
        used = [rho[i - j] for j in range(order)]
        made = METHODS[sampler.name](used, rho[i + 1])
        trapezoid = sampler.name == "pndm" and i == 0
        updates.append(
            Update(
                index=i,
                alpha=alpha[i],
                rho=rho[i],
                carry=made.carry,
                gain=made.gain,
                weights=(0.5,) if trapezoid else made.weights,
                data_form=made.data_form,
                second_call=0.5 if trapezoid else 0.0,
            )
        )
    return tuple(updates)


def _network_alpha(sampler: Sampler) -> list[float]:
    """Factor from `y` to what the network sees: Euler's own states are `y`, and scaled for it."""
    levels = sampler.levels
    return ((1 + levels.rho**2).rsqrt() if sampler.name == "euler" else levels.alpha).tolist()


def _order_cap(sampler: Sampler, i: int) -> int:
    """The order that the scheduler and its rules for the last updates leave."""
    config, left = sampler.scheduler.config, sampler.num_steps - i
    if sampler.name not in _EXPONENTIAL:
        return sampler.history_size + 1
    order = int(config.solver_order)
    if config.lower_order_final and sampler.num_steps < 15:
        order = min(order, left)
    ends_low = config.get("euler_at_final") or config.get("final_sigmas_type") == "zero"
    return 1 if left == 1 and ends_low and sampler.name in _DPM else order


def _check_scheduler(sampler: Sampler) -> None:
    """Refuse what is not one of the linear methods of the table."""
    config = sampler.scheduler.config
    if sampler.name in WITHOUT_FORM:
        reason, others = WITHOUT_FORM[sampler.name], (*_FIRST_ORDER, "pndm", *_EXPONENTIAL)
        raise UsageError(
            f"sampler={sampler.name!r} is no linear multistep method, {reason}: "
            f"use one of {', '.join(others)}"
        )
    wanted = {
        "clip_sample": False,
        "thresholding": False,
        "rescale_betas_zero_snr": False,
        "solver_type": "logrho" if sampler.name == "deis" else "midpoint",
    }
    for field, value in wanted.items():
        if config.get(field, value) != value:
            raise UsageError(
                f"scheduler.{field}={config[field]!r} has no bound in redi/theory/PROOF.md: "
                f"set it to {value!r}"
            )
    kind = config.get("prediction_type", "epsilon")
    if sampler.name == "pndm" and kind != "epsilon":
        raise UsageError(
            f"sampler=pndm averages raw outputs, which are no noise predictions with "
            f"prediction_type={kind!r}: wrap the model in NoiseForm"
        )


def _check_levels(sampler: Sampler) -> None:
    """Refuse grids on which a state, its call and the next update are at different levels."""
    calls = torch.stack([timesteps[0] for timesteps in sampler.call_timesteps]).double()
    if sampler.name == "flow_euler":
        called = calls / sampler.scheduler.config.num_train_timesteps  # (N,)
        state = sampler.levels.sigma[:-1]
    else:
        table = sampler.scheduler.alphas_cumprod.double()[calls.long()]
        called = ((1 - table) / table).sqrt()  # (N,)
        state = sampler.levels.rho[:-1]
    apart = (called - state).abs() > _SAME_LEVEL * state
    if apart.any() or not torch.equal(sampler.written.alpha, sampler.levels.alpha):
        spacing = sampler.scheduler.config.get("timestep_spacing")
        raise UsageError(
            f"sampling.steps={sampler.num_steps} with timestep_spacing={spacing!r} calls the "
            "network at other levels than the states have: use trailing or leading spacing and a "
            f"divisor of {sampler.scheduler.config.num_train_timesteps}"
        )
