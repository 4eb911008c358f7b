"""One large step of a base sampler between any two levels, in normalised variables.

`y = x / alpha`, `rho = sigma / alpha`, `e` the noise prediction, `d = y - rho e` the predicted
clean latents. The coefficients are those of the samplers with the same names
(`redi.samplers.coefficients`), so a fitted run whose numbers are neutral is the plain sampler on
the same levels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from redi.lazy import Tensor
from redi.methods.few.plan import Plan
from redi.samplers.coefficients import METHODS, unipc_corrector


@dataclass(frozen=True)
class Visit:
    """One level that a run has been to."""

    rho: float
    y: Tensor  # (B, C, H, W) float64
    noise: Tensor  # (B, C, H, W) float64 prediction e
    guidance: Tensor | None = None  # (B, C, H, W) float64 guidance difference

    @property
    def clean(self) -> Tensor:
        """Predicted clean latents `d = y - rho e`."""
        return self.y - self.rho * self.noise


#: Visits so far (oldest first), the next level's rho, and whether it is the end, to the next y.
Base = Callable[[Sequence[Visit], float, bool], Tensor]


def ddim(visits: Sequence[Visit], rho: float, last: bool) -> Tensor:
    """Euler: `y + h e`."""
    return multistep("ddim", visits[-1:], rho, visits[-1].y)


def dpm_solver_pp(visits: Sequence[Visit], rho: float, last: bool) -> Tensor:
    """DPM-Solver++ 2M in data form; first order at the first and the last step."""
    return multistep("dpm_solver_pp", visits[-1:] if last else visits[-2:], rho, visits[-1].y)


def deis(visits: Sequence[Visit], rho: float, last: bool) -> Tensor:
    """DEIS of order 2, a polynomial in `log rho`; first order at the first and the last step."""
    return multistep("deis", visits[-1:] if last else visits[-2:], rho, visits[-1].y)


def ipndm(order: int) -> Base:
    """iPNDM: Adams-Bashforth of rising order in `e` with the weights of equal steps."""
    return lambda visits, rho, last: multistep("pndm", visits[-order:], rho, visits[-1].y)


def ipndm_v(order: int) -> Base:
    """iPNDM with the weights of the steps as they are (variable-step Adams-Bashforth)."""
    return lambda visits, rho, last: multistep("ipndm_v", visits[-order:], rho, visits[-1].y)


def rx(visits: Sequence[Visit], rho: float, last: bool) -> Tensor:
    """RX-DPM on Euler (Choi et al. 2025): every second step is extrapolated.

    Beside the two steps stands the single long one, made with the first of the two calls. Euler's
    error over a step grows as its square, so with `r = sum_j (share of step j)^2` the error of the
    two is `r` times that of the one, and `(two - r one) / (1 - r)` is free of it.
    """
    two = ddim(visits, rho, last)
    if len(visits) % 2:
        return two
    start, middle = visits[-2], visits[-1].rho
    share = (start.rho - middle) / (start.rho - rho)
    ratio = share**2 + (1 - share) ** 2
    one = start.y + (rho - start.rho) * start.noise
    return (two - ratio * one) / (1 - ratio)


def unipc(visits: Sequence[Visit], rho: float, last: bool) -> Tensor:
    """UniPC of order 2 with `B_2(h)` in data form: corrects the state it is at, then predicts.

    Its corrector starts from the same state as the predictor did, so it shifts the state it is at,
    whatever brought the run there.
    """
    y = visits[-1].y
    if len(visits) > 1:
        y = y + corrector_shift(visits[-3:])
    return multistep("unipc", visits[-1:] if last else visits[-2:], rho, y)


def multistep(method: str, used: Sequence[Visit], rho: float, y: Tensor) -> Tensor:
    """The method's update of `y` to `rho` with the predictions of some visits, oldest first."""
    newest = used[::-1]
    update = METHODS[method]([visit.rho for visit in newest], rho)
    return update.apply(y, [v.clean if update.data_form else v.noise for v in newest])


def corrector_shift(visits: Sequence[Visit]) -> Tensor:
    """UniC less UniP for the step to the last visit, from it and the one or two before."""
    levels, clean = [v.rho for v in visits[::-1]], [v.clean for v in visits[::-1]]
    corrector = unipc_corrector(levels)
    predictor = METHODS["unipc"](levels[1:], levels[0])
    return corrector.gain * (corrector.combine(clean) - predictor.combine(clean[1:]))


#: Base updates by the name of their sampler. PNDM without its trapezoid start is iPNDM.
BASES: dict[str, Base] = {
    "ddim": ddim,
    "dpm_solver_pp": dpm_solver_pp,
    "pndm": ipndm(4),
    "unipc": unipc,
    "deis": deis,
    "ipndm": ipndm(4),
    "ipndm2": ipndm(2),
    "ipndm3": ipndm(3),
    "ipndm_v": ipndm_v(4),
    "ipndm_v2": ipndm_v(2),
    "ipndm_v3": ipndm_v(3),
    "rx": rx,
}


def base_step(plan: Plan, base: str, level: int, visits: Sequence[Visit]) -> Tensor:
    """The base sampler's step from `level` to `level + 1` (B, C, H, W).

    It goes where the reference's own update wrote that state, and is read as the next call does.
    """
    rho, change = plan.target(level)
    return BASES[base](visits, rho, level == plan.strides - 1) * change
