"""Answers that were given before: identical calls of one batch are made once."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import NamedTuple

from redi.lazy import Tensor, torch
from redi.samplers import Ask


class Kept(NamedTuple):
    """One answer, and the seconds that it took when it was made."""

    output: Tensor  #                     (b, C, H, W) of the rows that asked
    guidance: Tensor | None
    seconds: float


@dataclass
class Memo:
    """Answers of one model on one batch of prompts, by what was asked.

    Two calls are the same when the network is told the same: input and timestep bit for bit, for
    the same rows with the same prompts, with or without the guidance difference. So a prefix that
    methods share is computed once, and each method still counts it.
    """

    def __init__(self) -> None:
        self.answers: dict[str, Kept] = {}
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
        return self.answers[name]

    def keep(self, ask: Ask, output: Tensor, guidance: Tensor | None, seconds: float) -> Kept:
        """Remember an answer that was just made."""
        self.computed += 1
        self.rows += len(output)
        name = ask_digest(ask)
        self.answers[name] = Kept(output, guidance, seconds)
        self.given.append(name)
        return self.answers[name]


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
