"""Where few levels lie: placements by name, and those that are fitted to a KB.

Every solver takes every placement (`levels=`). A plain one is a formula or a table. A fitted one
asks for network calls of the KB's trajectories once; its levels are kept beside the KB and shared
by all methods that name it. All levels are levels of the reference sampler, strictly falling, the
first and the last always among them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from redi.errors import UsageError
from redi.knowledge_base import KnowledgeBase
from redi.lazy import Tensor, torch
from redi.methods.base import Say, Setup
from redi.methods.few.dmn import dmn_levels
from redi.methods.few.plan import Plan, check_calls, check_reference
from redi.methods.few.store import Cost, Fit, fit_path, fitted_to, load_fit, save_fit
from redi.methods.few.teacher import Teacher
from redi.samplers import Calls, Sampler

#: levels of Align Your Steps (Sabour et al. 2024, table of Stable Diffusion 1.5), ten calls
_AYS = (14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029)
#: and of SDXL, ten calls
_AYS_XL = (14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029)

_NO_SIGNAL = 4096.0  # `rho` of a start without signal, as of a rectified flow

#: reference levels `rho` (N + 1,), the least level that the network knows, strides and the number
#: in the name: to steps (strides + 1,), not yet distinct
Formula = Callable[[Tensor, float, int, float], Sequence[int]]
#: a teacher and the number of strides, to steps (strides + 1,)
Search = Callable[[Teacher, int], Calls[Sequence[int]]]


@dataclass(frozen=True)
class _Searched:
    search: Search
    #: trajectories that it reads; KBs that begin with the same ones share the levels
    trials: int


@dataclass(frozen=True)
class _Plain:
    formula: Formula
    #: what stands for the number in the name where it has none; None: it must have one
    usual: float | None = None
    takes_number: bool = False


def _late(rho: Tensor, low: float, strides: int, power: float) -> Sequence[int]:
    """After stride `i` the share `1 - (1 - i / strides)^P` of all reference steps is done."""
    last = len(rho) - 1
    return [round(last * (1 - (1 - i / strides) ** power)) for i in range(strides + 1)]


def _karras(rho: Tensor, low: float, strides: int, power: float) -> Sequence[int]:
    """Karras et al. (2022), eq. 5, down to the last level before the end."""
    wanted = _polynomial(_top(rho), float(rho[-2]), max(strides - 1, 1), power)
    return [*_nearest(rho, wanted[:strides]), len(rho) - 1]


def _poly(rho: Tensor, low: float, strides: int, power: float) -> Sequence[int]:
    """The same formula down to the least level that the network knows, which is the end."""
    return _nearest(rho, _polynomial(_top(rho), low, strides, power))


def _top(rho: Tensor) -> float:
    """The first level that holds signal: formulas in `rho` have no sense of pure noise."""
    return float(rho[0] if rho[0] < _NO_SIGNAL else rho[1])


def _polynomial(high: float, low: float, strides: int, power: float) -> list[float]:
    top, bottom = high ** (1 / power), low ** (1 / power)
    return [(top + i / strides * (bottom - top)) ** power for i in range(strides + 1)]


def _dmn(rho: Tensor, low: float, strides: int, power: float) -> Sequence[int]:
    return _nearest(rho, dmn_levels(_top(rho), low, strides, power))


def _table(levels: Sequence[float]) -> Formula:
    """A published table: another number of strides by linear interpolation of the logarithm."""

    def formula(rho: Tensor, low: float, strides: int, number: float) -> Sequence[int]:
        places = torch.linspace(0, len(levels) - 1, strides + 1, dtype=torch.float64)
        left = places.floor().long().clamp(max=len(levels) - 2)
        logs = torch.tensor(levels, dtype=torch.float64).log()
        return _nearest(rho, torch.lerp(logs[left], logs[left + 1], places - left).exp().tolist())

    return formula


def _nearest(rho: Tensor, wanted: Sequence[float]) -> list[int]:
    """The reference levels next to some others, by the ratio."""
    logs = rho.clamp_min(1e-300).log()
    return [int((logs - math.log(w)).abs().argmin()) for w in wanted]


_PLAIN: dict[str, _Plain] = {
    "even": _Plain(_late, 1.0),
    "karras": _Plain(_karras, 7.0),
    "late": _Plain(_late, None, True),
    "poly": _Plain(_poly, 7.0, True),
    "ays": _Plain(_table(_AYS), 0.0),
    "ays_xl": _Plain(_table(_AYS_XL), 0.0),
    "dmn": _Plain(_dmn, 2.0),
}
_FITTED: dict[str, _Searched] = {}


def placement(name: str, trials: int) -> Callable[[Search], Search]:
    """Decorator: makes a search for levels, on the first `trials` trajectories, known by name."""

    def known(search: Search) -> Search:
        _FITTED[name] = _Searched(search, trials)
        return search

    return known


def check_levels(levels: str, told: str = "levels") -> None:
    """Refuse a placement that does not exist; `told` is where the user named it."""
    if not is_placement(levels):
        raise UsageError(
            f"{told} has {levels!r}; use one of {', '.join(placements())}, with a number P above "
            "zero, such as late1.5"
        )


def placements() -> list[str]:
    """Names of all placements; P stands for a number."""
    return [*(name + "P" * kind.takes_number for name, kind in _PLAIN.items()), *_FITTED]


def is_placement(levels: str) -> bool:
    """Whether there is a placement of this name."""
    return levels in _FITTED or _read(levels) is not None


def is_fitted_kind(levels: str) -> bool:
    """Whether a placement asks for network calls."""
    return levels in _FITTED


def coarse_steps(
    rho: Tensor, strides: int, levels: str = "even", lowest: float | None = None
) -> tuple[int, ...]:
    """`strides + 1` reference steps from 0 to the last, strictly rising, of a plain placement.

    Args:
        rho: the reference's levels (N + 1,).
        lowest: the least level that the network knows; None: the last that is not zero.
    """
    check_levels(levels)
    last = len(rho) - 1
    check_calls(last, strides)
    found = _read(levels)
    assert found is not None
    formula, number = found
    low = float(rho[rho > 0][-1]) if lowest is None else lowest
    return _rising(formula(rho, low, strides, number), last)


def plan(sampler: Sampler, calls: int, levels: str = "even", analytic: bool = False) -> Plan:
    """The plan of a plain placement."""
    rho, lowest = check_reference(sampler), _lowest(sampler)
    return Plan(sampler, coarse_steps(rho, calls + analytic, levels, lowest), analytic)


def place(
    setup: Setup, start: Tensor, calls: int, levels: str, analytic: bool, say: Say
) -> Calls[tuple[Plan, Cost]]:
    """The plan of any placement; a fitted one is fitted where it is not yet, and kept."""
    if not is_fitted_kind(levels):
        return plan(setup.sampler, calls, levels, analytic), Cost()
    path = levels_path(setup, calls, levels, analytic)
    if not path.is_file():
        say(f"Placing {calls} calls ({levels})")
        cost, strides = Cost(), calls + analytic
        kind = _FITTED[levels]
        steps = yield from cost.of(kind.search(Teacher(setup, start).first(kind.trials), strides))
        found = Plan(setup.sampler, _rising(steps, setup.sampler.num_steps), analytic)
        save_fit(path, Fit(found, {}, cost), fitted_to(_searched(setup, levels)))
    fit = load_levels(setup, calls, levels, analytic)
    return fit.plan, fit.cost


def levels_path(setup: Setup, calls: int, levels: str, analytic: bool) -> Path:
    """Where the levels of a fitted placement lie."""
    kb = _searched(setup, levels)
    return fit_path(kb.root, kb.content_hash, levels, [calls, analytic])


def load_levels(setup: Setup, calls: int, levels: str, analytic: bool) -> Fit:
    """The levels of a fitted placement, and what they cost."""
    path = levels_path(setup, calls, levels, analytic)
    return load_fit(path, setup.sampler, fitted_to(_searched(setup, levels)))


def _searched(setup: Setup, levels: str) -> KnowledgeBase:
    """The trajectories that a fitted placement is searched on."""
    return setup.needs_kb(levels).first(_FITTED[levels].trials)


def needed_steps(sampler: Sampler, strides: int, levels: str) -> list[int]:
    """Reference steps whose states a fit on a placement reads: all of them where it searches."""
    check_levels(levels)
    rho = check_reference(sampler)
    check_calls(len(rho) - 1, strides, "calls")
    if is_fitted_kind(levels):
        return list(range(1, len(rho)))
    return [step for step in coarse_steps(rho, strides, levels, _lowest(sampler)) if step]


def _read(levels: str) -> tuple[Formula, float] | None:
    """The formula of a plain placement and the number in its name; None: there is no such one."""
    for name, kind in _PLAIN.items():
        if levels == name and kind.usual is not None:
            return kind.formula, kind.usual
        if kind.takes_number and levels.startswith(name):
            try:
                number = float(levels.removeprefix(name))
            except ValueError:
                continue
            if 0 < number < 100:
                return kind.formula, number
    return None


def _lowest(sampler: Sampler) -> float:
    """The least positive level that the network knows."""
    table = getattr(sampler.scheduler, "alphas_cumprod", None)
    if table is not None:
        return float(((1 - table[0]) / table[0]) ** 0.5)
    return 1 / (sampler.scheduler.config.num_train_timesteps - 1)


def _rising(steps: Sequence[int], last: int) -> tuple[int, ...]:
    """The steps moved apart as little as makes them different, ends fixed."""
    found = [0, *steps[1:-1], last]
    for i in range(1, len(found) - 1):
        found[i] = max(found[i], found[i - 1] + 1)
    for i in range(len(found) - 2, 0, -1):
        found[i] = min(found[i], found[i + 1] - 1)
    return tuple(found)
