"""Fits on disk: named tensors in one sealed file, which says what they were fitted to and cost."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from redi.errors import UsageError
from redi.knowledge_base import KnowledgeBase
from redi.lazy import Tensor, torch
from redi.methods.few.plan import Plan
from redi.reading import whole
from redi.samplers import Calls, Sampler
from redi.sealed import load_sealed, save_sealed

Result = TypeVar("Result")

FIX = "delete it, it is fitted again"
_FORMAT = "redi fit 1"


@dataclass
class Cost:
    """What a fit has spent: network calls, one for each trajectory that asked, and seconds.

    An answer that an equal call of another fit brought counts as if it had been made again.
    """

    calls: int = 0
    seconds: float = 0.0

    def of(self, calls: Calls[Result]) -> Calls[Result]:
        """The same run, counted."""
        began = time.perf_counter()
        try:
            ask = next(calls)
            while True:
                self.seconds += time.perf_counter() - began
                self.calls += len(ask.latents) if ask.rows is None else len(ask.rows)
                answer = yield ask
                self.seconds += answer.seconds
                began = time.perf_counter()
                ask = calls.send(answer)
        except StopIteration as end:
            self.seconds += time.perf_counter() - began
            return end.value

    def add(self, other: Cost) -> None:
        """Count what another fit has spent as well."""
        self.calls += other.calls
        self.seconds += other.seconds


@dataclass(frozen=True)
class Fit:
    """Numbers that were fitted on the levels of a plan."""

    plan: Plan
    #: what the method made of the trajectories, float32 or float64, by its own names
    tensors: Mapping[str, Tensor]
    cost: Cost = field(default_factory=Cost)
    #: what it further needs to know, as JSON
    notes: Any = None

    @property
    def numbers(self) -> int:
        """Stored scalars."""
        return sum(tensor.numel() for tensor in self.tensors.values())

    def to(self, device: torch.device) -> Fit:
        """The same numbers on another device."""
        tensors = {name: tensor.to(device) for name, tensor in self.tensors.items()}
        return Fit(self.plan, tensors, self.cost, self.notes)


def fitted_to(kb: KnowledgeBase) -> dict[str, Any]:
    """What a fitted file says that it is of: the KB's content, and the model that made it."""
    return {"kb": kb.content_hash, "model": kb.manifest.identity.get("model_hash")}


def fit_path(root: Path, kb_hash: str, name: str, settings: Any, form: str = _FORMAT) -> Path:
    """Where a fit lies beside its KB; any other KB, method or setting differs."""
    text = json.dumps([form, kb_hash, name, settings], sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    return root / "fits" / f"{name}-{digest}.safetensors"


def save_fit(path: Path, fit: Fit, of: Mapping[str, Any]) -> None:
    """Write durably; what is read back computes the same numbers. `of` is `fitted_to` the KB."""
    content = {
        "steps": fit.plan.steps,
        "analytic": fit.plan.analytic,
        "cost": asdict(fit.cost),
        "notes": fit.notes,
    }
    save_sealed(path, "the fit", named(path, of), fit.tensors, content)


def load_fit(path: Path, sampler: Sampler, of: Mapping[str, Any]) -> Fit:
    """Read a fit to this reference; a `UsageError` names a damaged or foreign file."""
    read = load_sealed(path, "the fit", named(path, of), FIX)
    with damage(path, "the fit"):
        require_finite(read.tensors)
        plan = plan_from(path, read.content, sampler)
        return Fit(plan, read.tensors, cost_from(read.content), read.content["notes"])


def plan_from(path: Path, content: Mapping[str, Any], sampler: Sampler) -> Plan:
    """The levels that a file names; refuses those of another reference."""
    steps = tuple(whole(step) for step in content["steps"])
    if list(steps) != sorted(set(steps)) or len(steps) < 2:
        raise ValueError(f"levels {steps}")
    if (steps[0], steps[-1]) != (0, sampler.num_steps):
        raise UsageError(f"{str(path)!r} is of another plan: {FIX}")
    return Plan(sampler, steps, bool(content.get("analytic")))


def cost_from(content: Mapping[str, Any]) -> Cost:
    """What a fit says that it cost."""
    return Cost(whole(content["cost"]["calls"]), float(content["cost"]["seconds"]))


def named(path: Path, of: Mapping[str, Any]) -> dict[str, Any]:
    """The name is a hash of KB and settings: a file under another name is another's."""
    return {**of, "name": path.stem}


def require_finite(tensors: Mapping[str, Tensor]) -> None:
    """Refuse numbers that nobody fitted."""
    for name, tensor in tensors.items():
        if not tensor.is_floating_point() or not bool(tensor.isfinite().all()):
            raise ValueError(f"{name} is not made of finite numbers")


@contextmanager
def damage(path: Path, what: str) -> Iterator[None]:
    """Turn what unexpected content leads to into a sentence that names the file."""
    try:
        yield
    except UsageError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise UsageError(f"{what} {str(path)!r} is damaged ({reason}): {FIX}") from None
