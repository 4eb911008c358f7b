"""Answers that were given before: identical calls of one batch are made once."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import NamedTuple

from redi.lazy import Tensor, torch
from redi.samplers import Answer, Ask

#: bytes of answers that a fit may look up again
REMEMBERED = 1 << 30


class Kept(NamedTuple):
    """One answer, and the seconds that it took when it was made."""

    output: Tensor  #                     (b, C, H, W) of the rows that asked
    guidance: Tensor | None
    seconds: float

    def to(self, ask: Ask) -> Answer:
        """The answer to an ask of the whole batch, on its device; rows that waited are zero."""
        guidance = None if self.guidance is None else _whole(ask, self.guidance)
        return Answer(ask.latents, _whole(ask, self.output), guidance, self.seconds)

    @property
    def bytes(self) -> int:
        return self.output.nbytes + (0 if self.guidance is None else self.guidance.nbytes)


@dataclass
class Memo:
    """Answers of one model on one batch of prompts, by what was asked.

    Two calls are the same when the network is told the same: input and timestep bit for bit, for
    the same rows with the same prompts, with or without the guidance difference. So a prefix that
    methods share is computed once, and each method still counts it.

    Args:
        most: bytes that are kept; what was not looked up for longest goes first. None: all.
    """

    most: int | None = None

    def __post_init__(self) -> None:
        self.answers: dict[str, Kept] = {}
        self._bytes = 0
        #: names of the answers that were given, in order
        self.given: list[str] = []
        #: calls that were made, and their rows
        self.computed = self.rows = 0

    def find(self, ask: Ask) -> Kept | None:
        """The answer of an equal call; None: there was none."""
        name = ask_digest(ask)
        if name not in self.answers:
            return None
        self.given.append(name)
        self.answers[name] = self.answers.pop(name)  # the last to go
        return self.answers[name]

    def keep(self, ask: Ask, output: Tensor, guidance: Tensor | None, seconds: float) -> Kept:
        """Remember an answer that was just made."""
        self.computed += 1
        self.rows += len(output)
        name = ask_digest(ask)
        kept = self.answers[name] = Kept(output, guidance, seconds)
        self.given.append(name)
        self._bytes += kept.bytes
        while self.most is not None and self._bytes > self.most and len(self.answers) > 1:
            self._bytes -= self.answers.pop(next(iter(self.answers))).bytes
        return kept


def _whole(ask: Ask, part: Tensor) -> Tensor:
    """An output of some rows as one of the whole batch, where its latents are."""
    part = part.to(ask.latents.device)  # an equal call may have been made elsewhere
    if ask.rows is None:
        return part
    shape = (len(ask.latents), *part.shape[1:])
    whole = torch.zeros(shape, dtype=part.dtype, device=part.device)
    whole[ask.rows.to(part.device)] = part
    return whole


def ask_digest(ask: Ask) -> str:
    """One name for everything that the network is told of a batch beside its prompts."""
    digest = hashlib.blake2b(digest_size=16)
    rows = "all" if ask.rows is None else ask.rows.tolist()
    form = f"{ask.input.dtype} {tuple(ask.input.shape)}"
    digest.update(f"{ask.prompt} {ask.guidance} {float(ask.timestep)!r} {rows} {form}".encode())
    latents = ask.input if ask.rows is None else ask.input[ask.rows]
    raw = latents.detach().cpu().contiguous()
    digest.update(raw.view(torch.uint8).numpy().data)
    return digest.hexdigest()
