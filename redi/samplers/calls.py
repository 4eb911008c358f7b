"""Network calls as a generator asks for them: whoever runs it answers.

A run of a sampler, or of any method that spends network calls, is a generator. It yields an `Ask`
and is sent an `Answer`; what it returns is its result. The framework's own loop answers with a
model (`redi.methods.solve`), a user's pipeline answers with its own networks.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from redi.lazy import Tensor, torch
from redi.samplers.state import Predict

Result = TypeVar("Result")


@dataclass(frozen=True)
class Ask:
    """One network call that is wanted."""

    latents: Tensor  #                    (B, C, H, W) in the sampler's own variables
    timestep: Tensor  #                   (): what the network is told
    #: calls that the schedule holds before this one
    position: int
    #: the network sees `latents / divisor`; None: the latents themselves
    divisor: Tensor | None = None
    #: "own", or "early": what a query says until its jump (stylization)
    prompt: str = "own"
    #: samples that want the call, int64 (b,); None: all. The others wait.
    rows: Tensor | None = None
    #: whether the guidance difference is wanted as well
    guidance: bool = False

    @property
    def input(self) -> Tensor:
        """What the network sees (B, C, H, W)."""
        return self.latents if self.divisor is None else self.latents / self.divisor


@dataclass(frozen=True)
class Answer:
    """What the network said. Rows that waited hold nothing of meaning."""

    latents: Tensor  #                    (B, C, H, W) as they were: a callback may change them
    output: Tensor  #                     (B, C, H, W) guided
    #: output with the prompt less output without it (B, C, H, W); None: unguided, or not seen
    guidance: Tensor | None = None
    #: that the network took, or had taken where the answer was known from an equal call
    seconds: float = 0.0

    def take(self, rows: Tensor) -> Answer:
        """The answer for some samples."""
        guidance = None if self.guidance is None else self.guidance[rows]
        return Answer(self.latents[rows], self.output[rows], guidance, self.seconds)


#: a run that asks for network calls; of methods, the result is the final latents (B, C, H, W)
Calls = Generator[Ask, Answer, Result]


def drive(calls: Calls[Result], predict: Predict) -> Result:
    """Answer every call of all samples with `predict`; returns what the run returns."""
    try:
        ask = next(calls)
        while True:
            ask = calls.send(Answer(ask.latents, predict(ask.input, ask.timestep)))
    except StopIteration as end:
        return end.value


def together(parts: Sequence[tuple[Tensor, Calls[Tensor]]], like: Tensor) -> Calls[Tensor]:
    """Runs of disjoint samples as one run of the whole batch.

    The call at the earliest position comes first, and runs that want the same call share it; the
    others wait.

    Args:
        parts: rows, int64 (b,), and the run of those samples.
        like: latents of the whole batch (B, C, H, W).
    """
    latents, pending = like.clone(), dict[int, Ask]()

    def go_on(number: int, step: Any) -> None:
        try:
            pending[number] = step()
        except StopIteration as end:
            pending.pop(number, None)
            latents[parts[number][0]] = end.value

    for number, (_, calls) in enumerate(parts):
        go_on(number, lambda calls=calls: next(calls))
    while pending:
        first = min(pending.values(), key=lambda ask: ask.position)
        sharing = [n for n, ask in pending.items() if _same_call(ask, first)]
        for number, ask in pending.items():
            latents[parts[number][0]] = ask.latents
        rows = torch.cat([parts[number][0] for number in sharing]).sort().values
        answer = yield replace(first, latents=latents.clone(), rows=rows)
        latents = answer.latents.clone()
        for number in list(pending):
            mine = parts[number][0]
            if number in sharing:
                told = answer.take(mine)
                go_on(number, lambda n=number, told=told: parts[n][1].send(told))
            else:
                pending[number] = replace(pending[number], latents=latents[mine])
    return latents


def _same_call(one: Ask, other: Ask) -> bool:
    return (
        one.position == other.position
        and one.prompt == other.prompt
        and bool(one.timestep == other.timestep)
    )
