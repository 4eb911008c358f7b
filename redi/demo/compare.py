"""One prompt with several methods beside full sampling: pictures, cost, errors, neighbours."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np

from redi.data.pixels import to_pixels
from redi.demo.bench import Bench
from redi.errors import UsageError, unknown
from redi.lazy import Tensor
from redi.methods import METHODS, Fitted, Method
from redi.methods.controls import NeighbourImage
from redi.methods.plain import Full, Plain
from redi.methods.redi import ReDi
from redi.methods.solve import Outcome, solve
from redi.metrics.latent_error import latent_error
from redi.report import labels
from redi.retrieval import Found
from redi.verbs.fit import fit_all

SHOWN = 6  # nearest trajectories beside the full run


@dataclass(frozen=True)
class Neighbour:
    """One trajectory that was looked up."""

    trajectory: int
    distance: float
    prompt: str
    picture: np.ndarray  #                uint8 (H, W, 3), what it ended in


@dataclass(frozen=True)
class Tried:
    """What a method made of the prompt, or the sentence that says why it cannot."""

    name: str
    title: str
    picture: np.ndarray | None = None  #  uint8 (H, W, 3)
    #: network calls
    calls: float | None = None
    #: of sampling, without text encoder and decoder
    milliseconds: float | None = None
    #: relative error of the final latents to the full run's
    error: float | None = None
    #: the same as the KB alone foretells it, where the method does
    forecast: float | None = None
    #: trajectories that it used; of full sampling: those nearest to it at the key step
    neighbours: tuple[Neighbour, ...] = ()
    refused: str = ""


def offered() -> list[str]:
    """Names of methods that can be compared, in the order of `METHODS`."""
    return [name for name in METHODS if name not in ("full", "switch")]


def title_of(name: str) -> str:
    """What a method is called on the page."""
    return labels.METHODS.get(name) or (METHODS[name].title if name in METHODS else name)


def chosen_method(name: str, calls: int, bench: Bench) -> Method:
    """A method with so many network calls, or as near below as its jumps allow.

    Raises:
        UsageError: the name is unknown, or the method cannot do with so few calls.
    """
    if name not in offered():
        raise unknown(f"method={name!r}", name, offered())
    kind, own = METHODS[name], bench.solver
    if kind is Plain:
        return Plain(calls, own.name, own.order, own.timestep_spacing, own.use_karras_sigmas)
    if issubclass(kind, ReDi):
        return kind(value_step=value_step(kind, calls, bench))
    if "calls" in {field.name for field in fields(kind)}:  # type: ignore[arg-type]
        return kind(calls=calls)  # type: ignore[call-arg]
    return kind()


def value_step(kind: type[ReDi], calls: int, bench: Bench) -> int:
    """The earliest stored step to jump to with at most `calls` network calls in all."""
    sampler, kb = bench.setup.sampler, bench.kb
    key, end = kb.key_step, sampler.num_steps
    assert key is not None
    steps = [step for step in kb.stored_steps if step > key]
    if issubclass(kind, NeighbourImage):
        steps = [end]
    took = {step: sampler.calls(0, key) + sampler.calls(step, end) for step in steps}
    fit = [step for step in steps if took[step] <= calls]
    if not fit:
        raise UsageError(
            f"calls={calls} are too few for method={kind.name!r}, which samples to key step "
            f"{key} first: use at least {min(took.values())}"
        )
    return fit[0]


def compare(
    bench: Bench,
    prompt: str,
    seed: int,
    names: Sequence[str],
    calls: int,
    say: Callable[[str], None] = lambda line: None,
) -> Iterator[Tried]:
    """Full sampling first, then every named method, each as soon as it is done.

    A method that has not been fitted to the KB yet is fitted first, and the fit is kept.

    Args:
        seed: from 0; see `Bench.noise_of`.
        calls: network calls that each method may make.

    Raises:
        UsageError: the prompt is empty, or the seed or the number of calls is out of range.
    """
    most = bench.setup.sampler.calls(0, bench.setup.sampler.num_steps)
    if not prompt.strip():
        raise UsageError("prompt='' is empty: say what the picture is to show")
    if not 0 <= seed < 2**30:
        raise UsageError(f"seed={seed} is out of range: use 0 to {2**30 - 1}")
    if not 1 <= calls <= most:
        raise UsageError(f"calls={calls} is out of range: use 1 to {most}")
    say(title_of("full"))
    whole = run(bench, Full(), prompt, seed)
    yield shown(bench, Full(), whole, nearest(bench, whole, seed))
    for name in names:
        say(title_of(name))
        try:
            method = chosen_method(name, calls, bench)
            if isinstance(method, Fitted):
                fit_all(
                    [method], bench.setup, bench.noise, bench.batched, lambda line: _told(say, line)
                )
            outcome = run(bench, method, prompt, seed)
        except UsageError as error:
            yield Tried(name, title_of(name), refused=str(error))
            continue
        yield shown(bench, method, outcome, outcome.found, whole.latents)


def run(bench: Bench, method: Method, prompt: str, seed: int) -> Outcome:
    """One method on one prompt; a full run is watched at the key step."""
    bound, said = method.bind(bench.setup), bench.model.encode([prompt])
    watch = [step for step in (bench.kb.key_step,) if step is not None]
    return solve(bound, bench.query(prompt, seed), bench.model, said, watch=watch)


def nearest(bench: Bench, whole: Outcome, seed: int) -> Found:
    """The trajectories nearest to a full run at the key step."""
    search, part = bench.setup.search, bench.noise_of(seed)[1]
    key = bench.kb.key_step
    assert search is not None and key is not None
    return search.search(whole.watched[key], [part], min(SHOWN, search.smallest_partition()))


def shown(
    bench: Bench,
    method: Method,
    outcome: Outcome,
    found: Found | None,
    reference: Tensor | None = None,
) -> Tried:
    """An outcome as people are shown it."""
    cost = outcome.cost
    seconds = cost.network_seconds + cost.retrieval_seconds + cost.rest_seconds
    error = None if reference is None else float(latent_error(outcome.latents, reference)[0])
    forecast = method.bind(bench.setup).describe().get("predicted_latent_error")
    return Tried(
        method.name,
        title_of(method.name),
        _pictures(bench, outcome.latents)[0],
        cost.calls,
        1000 * seconds,
        error,
        forecast,
        () if found is None else neighbours(bench, found),
    )


def neighbours(bench: Bench, found: Found) -> tuple[Neighbour, ...]:
    """What was found for the one sample, nearest first."""
    kb, end = bench.kb, bench.setup.sampler.num_steps
    rows, distances = found.rows[0], found.distances[0].tolist()
    pictures = _pictures(bench, kb.latents(end, rows))
    return tuple(
        Neighbour(int(kb.indices[row]), distance, kb.prompts[row], picture)
        for row, distance, picture in zip(rows.tolist(), distances, pictures, strict=True)
    )


def _pictures(bench: Bench, latents: Tensor) -> np.ndarray:
    return to_pixels(bench.model.decode(latents.to(bench.model.device)).cpu())


def _told(say: Callable[[str], None], line: object) -> None:
    if isinstance(line, str):  # tables are for a console
        say(re.sub(r", kept in .*", "", line))
