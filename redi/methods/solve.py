"""The framework's own loop: a model answers the calls of a method."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from redi.lazy import Tensor, torch
from redi.methods.base import Method, Notes, Query
from redi.methods.memo import REMEMBERED, Memo
from redi.models.base import Conditioning, DiffusionModel
from redi.models.meter import now
from redi.retrieval import Found
from redi.samplers import Answer, Ask, Calls, Predict, StepRecord

if TYPE_CHECKING:
    from redi.models.text_to_image import TextToImageModel


@dataclass(frozen=True)
class Cost:
    """What one batch cost: network calls per sample, and seconds for the whole batch."""

    calls: float = 0.0
    network_seconds: float = 0.0
    retrieval_seconds: float = 0.0
    rest_seconds: float = 0.0


@dataclass(frozen=True)
class Outcome:
    """Result of one method on one batch."""

    latents: Tensor  #                    (B, C, H, W) final
    cost: Cost
    #: network calls of each sample, int64 (B,)
    calls: np.ndarray
    notes: Notes = field(default_factory=Notes)
    #: latents after each watched step
    watched: dict[int, Tensor] = field(default_factory=dict)

    @property
    def found(self) -> Found | None:
        return self.notes.found

    @property
    def hits(self) -> Tensor | None:
        return self.notes.hits

    @property
    def at_value(self) -> Tensor | None:
        return self.notes.at_value


class Network:
    """One model on one batch of prompts: answers calls, and counts what each sample spends.

    A call that was answered before is taken from the memo. It costs what it cost the first time.
    """

    def __init__(
        self,
        model: DiffusionModel,
        conditionings: Mapping[str, Conditioning],
        memo: Memo | None = None,
    ) -> None:
        self.model, self.conditionings = model, conditionings
        self.memo = Memo() if memo is None else memo
        self._one_prompt = conditionings["early"].prompts == conditionings["own"].prompts
        self.calls = np.zeros(len(conditionings["own"]), np.int64)
        self.seconds = 0.0
        self._predictors: dict[tuple[str, tuple[int, ...] | None], Predict] = {}
        self._differences: list[Tensor] = []

    def answer(self, ask: Ask) -> Answer:
        """Make the call, or remember it."""
        if self._one_prompt:
            ask = replace(ask, prompt="own")
        rows = slice(None) if ask.rows is None else ask.rows.numpy()
        self.calls[rows] += 1
        kept = self.memo.find(ask)
        if kept is None:
            kept = self.memo.keep(ask, *self._call(ask))
        self.seconds += kept.seconds
        return kept.to(ask)

    def _call(self, ask: Ask) -> tuple[Tensor, Tensor | None, float]:
        chosen = None if ask.rows is None else tuple(ask.rows.tolist())
        key = ask.prompt, chosen
        if key not in self._predictors:
            said = self.conditionings[ask.prompt]
            told = said if ask.rows is None else said.take(ask.rows)
            self._predictors[key] = self.model.predictor(told, self._differences.append)
        before = self.model.meter.snapshot()[1]
        self._differences.clear()
        latents = ask.input if ask.rows is None else ask.input[ask.rows]
        output = self._predictors[key](latents, ask.timestep)
        guidance = self._differences[0] if self._differences and ask.guidance else None
        return output, guidance, self.model.meter.snapshot()[1] - before


def solve(
    method: Method,
    query: Query,
    model: DiffusionModel,
    conditioning: Conditioning,
    early: Conditioning | None = None,
    memo: Memo | None = None,
    watch: Container[int] = (),
) -> Outcome:
    """Run a bound method on a batch; every call is answered by `model`.

    Args:
        conditioning: the prompts; `early`, where it differs: what they say until a jump.
        memo: answers that runs of this batch share.
        watch: steps of a plain run after which its latents are kept.
    """
    told = {"own": conditioning, "early": conditioning if early is None else early}
    network = Network(model, told, memo)
    watched: dict[int, Tensor] = {}

    def observe(record: StepRecord) -> None:
        if record.state.step in watch:
            watched[record.state.step] = record.state.latents
        if query.observe is not None:
            query.observe(record)

    mine = replace(query, notes=Notes(), observe=observe)  # several methods may run a query
    began = now(model.meter.device)
    spent = 0.0  # on asking the network, whatever the answer came from
    run = method.run(mine)
    try:
        ask = next(run)
        while True:
            asked = now(model.meter.device)
            answer = network.answer(ask)
            spent += now(model.meter.device) - asked
            ask = run.send(answer)
    except StopIteration as end:
        latents: Tensor = end.value
    notes = mine.notes
    rest = now(model.meter.device) - began - spent - notes.retrieval_seconds
    cost = Cost(float(network.calls.mean()), network.seconds, notes.retrieval_seconds, rest)
    return Outcome(latents, cost, network.calls, notes, watched)


def solve_fit(
    calls: Calls[None],
    model: TextToImageModel,
    prompts: Sequence[str],
    memo: Memo | None = None,
) -> int:
    """Answer the calls of a fit to the trajectories of `prompts`; returns how many were made.

    Every call is for the first `len(ask.latents)` trajectories, or for those of its rows, in
    batches as the model makes them. Answers are where the latents of the call are, whatever the
    model's device.
    """
    memo, network = Memo(REMEMBERED) if memo is None else memo, _Prompts(model, prompts)
    before = memo.rows
    try:
        ask = next(calls)
        while True:
            kept = memo.find(ask) or memo.keep(ask, *network.answer(ask))
            ask = calls.send(kept.to(ask))
    except StopIteration:
        return memo.rows - before


class _Prompts:
    """The network on any rows of a KB's prompts, in batches."""

    def __init__(self, model: TextToImageModel, prompts: Sequence[str]) -> None:
        self.model, self.prompts = model, prompts
        self._batches: dict[tuple[int, ...], tuple[Predict, list[Tensor]]] = {}

    def answer(self, ask: Ask) -> tuple[Tensor, Tensor | None, float]:
        """Output and guidance difference of the rows that ask, and the seconds that they took."""
        began = now(self.model.device)
        rows = torch.arange(len(ask.latents)) if ask.rows is None else ask.rows.cpu()
        outputs, differences, own = [], list[Tensor](), ask.latents.device
        for batch in rows.split(self.model.batch_size):
            predict, seen = self._batch(tuple(batch.tolist()))
            seen.clear()
            latents = ask.input[batch.to(own)].to(self.model.device)
            outputs.append(predict(latents, ask.timestep).to(own))
            differences += [difference.to(own) for difference in seen]
        guidance = torch.cat(differences) if differences else None
        return torch.cat(outputs), guidance, now(self.model.device) - began

    def _batch(self, rows: tuple[int, ...]) -> tuple[Predict, list[Tensor]]:
        if rows not in self._batches:
            seen: list[Tensor] = []
            said = self.model.encode([self.prompts[i] for i in rows])
            self._batches[rows] = self.model.predictor(said, seen.append), seen
        return self._batches[rows]
