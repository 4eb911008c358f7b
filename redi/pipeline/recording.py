"""Recording a knowledge base with a user's own pipeline: begun, gone on with, grown."""

from __future__ import annotations

import inspect
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.progress import Progress

from redi.data.noise import NoisePolicy
from redi.errors import UsageError
from redi.files import require_space
from redi.knowledge_base import (
    Entry,
    KnowledgeBase,
    Manifest,
    Writer,
    complete_count,
    predicted_bytes,
)
from redi.knowledge_base.manifest import manifest_path
from redi.methods import Fitted
from redi.methods.corrected import Corrected
from redi.models.identity import Identity
from redi.pipeline.observer import Recording
from redi.pipeline.session import attach, detach
from redi.verbs.provenance import versions


def record(
    pipe: Any,
    prompts: str | Sequence[str],
    kb: str | Path,
    *,
    key_step: int | Sequence[int] | None = None,
    value_steps: Sequence[int] = (),
    budgets: Sequence[int] = (),
    methods: Sequence[Fitted] = (),
    batch_size: int = 1,
    noise: str = "shared",
    bank_size: int = 1,
    seed: int = 0,
    store_history: bool = False,
    progress: bool = True,
    **call: Any,
) -> KnowledgeBase:
    """Run an unmodified diffusers pipeline on prompts and keep its trajectories in folder `kb`.

    A folder that holds trajectories of the first of these prompts is gone on with: killed at any
    point, the same command makes what is missing, and with more prompts at the end it grows. A
    trajectory does not depend on how often that happened; another `batch_size` may round
    otherwise. Returns all that the folder holds.

    Args:
        prompts: one trajectory each; a text is one prompt.
        key_step: completed updates after which the key is kept, for `method="redi"`; several
            make a KB that serves each of them.
        value_steps: completed updates after which latents to jump to are kept, for the same.
        budgets: numbers of corrected steps that `fit` will be asked for, for
            `method="corrected"`.
        methods: fitted methods, as objects, that `fit` will be asked for; some search the whole
            trajectory, and all its steps are kept then.
        batch_size: prompts per pipeline call, and most trajectories per file; the last call is
            filled up with its last prompt, which is kept once.
        noise: "shared": every trajectory starts from the noise of `generators(kb)`; "bank": from
            one of `bank_size` noises by turns; "per_prompt": each from its own, which serves
            `method="corrected"` from any noise.
        seed: of the noise.
        store_history: also keep what multistep samplers carry, for `resume="retrieved"`.
        progress: whether to show a bar.
        call: further arguments of the pipeline, such as num_inference_steps and guidance_scale.

    Raises:
        UsageError: the folder holds a KB of another setting or of other prompts, the sampler is
            stochastic, or latents are not finite.
    """
    texts = _texts(prompts)
    if batch_size < 1:
        raise UsageError(f"batch_size={batch_size} is too small: use at least 1")
    policy = NoisePolicy(noise, bank_size, seed)
    keys = [] if key_step is None else [key_step] if isinstance(key_step, int) else [*key_step]
    _check_steps(keys, value_steps, budgets, methods)
    copies = {"num_images_per_prompt", "num_videos_per_prompt"}
    taken = {"prompt", "generator", "latents", *copies} & set(call)
    if taken:
        raise UsageError(f"{min(taken)} cannot be given: record() chooses it for every trajectory")
    for name, value in call.items():
        if name.startswith("negative_prompt") and isinstance(value, str):
            call[name] = [value] * batch_size  # some pipelines want one per prompt
    wanted = [*methods, *(Corrected(calls) for calls in budgets)]
    folder = _Folder(Path(kb), texts, policy)
    plan = Recording(keys, value_steps, wanted, store_history, folder.check)
    attach(pipe, plan)
    try:
        with Progress(disable=not progress) as bar:
            task = bar.add_task("recording", total=len(texts), completed=folder.done)
            while True:
                indices = folder.next_rows(batch_size)
                padded = indices + indices[-1:] * (batch_size - len(indices))
                starts = [policy.generator(policy.kb_id(i)) for i in padded]
                pipe(**query(pipe, [texts[i] for i in padded]), generator=starts, **call)
                folder.keep(plan, indices, batch_size)
                bar.update(task, completed=folder.done)
    except _Complete:
        pass
    finally:
        detach(pipe)
    return KnowledgeBase(folder.root)


class _Complete(Exception):
    """Nothing is missing; raised in a call once its setting is known to be the KB's."""


class _Folder:
    """What a recording fills: the setting and the prompts of a KB, and how many are there."""

    def __init__(self, root: Path, texts: list[str], policy: NoisePolicy) -> None:
        self.root, self.texts, self.policy = root, texts, policy
        self.setting: dict[str, Any] | None = None
        self.writer: Writer | None = None
        self.manifest = Manifest.read(root) if manifest_path(root).is_file() else None
        self._count()

    def check(self, call: Identity) -> None:
        """Refuse a call of another setting than the KB's, or than the calls before."""
        noise = {
            "noise_policy": self.policy.policy,
            "noise_bank_size": self.policy.bank_size,
            "noise_seed": self.policy.seed,
        }
        setting = json.loads(json.dumps({**call.fields, **noise}))
        theirs = self.setting if self.manifest is None else self.manifest.identity
        lines = [] if theirs is None else Identity(setting, call.usual).differences(theirs)
        if lines:
            raise UsageError(
                f"the KB {str(self.root)!r} holds trajectories of another setting "
                f"({'; '.join(lines)}): call the pipeline as before, or choose another folder"
            )
        if self.done >= len(self.texts):
            raise _Complete
        self.setting = setting

    def next_rows(self, most: int) -> list[int]:
        """The trajectories to run next; all being there, the first one, for its setting."""
        first = 0 if self.done >= len(self.texts) else self.done
        return list(range(first, min(first + most, len(self.texts))))

    def keep(self, plan: Recording, indices: list[int], batch_size: int) -> None:
        """Store the rows of a call that are trajectories, and not there to fill up the batch."""
        writer = self._open(plan, batch_size)
        entries = [Entry(i, self.texts[i], self.policy.kb_id(i)) for i in indices]
        size = writer.manifest.shard_size
        for start in range(0, len(indices), size):
            rows = slice(start, min(start + size, len(indices)))
            arrays = {name: tensor[rows].numpy() for name, tensor in plan.kept.items()}
            if not writer.append(arrays, entries[rows]):
                break  # another process was first
        self._count()

    def _open(self, plan: Recording, batch_size: int) -> Writer:
        if self.writer is None:
            size = batch_size if self.manifest is None else self.manifest.shard_size
            assert self.setting is not None
            self.manifest = Manifest(self.setting, plan.columns(), size)
            missing = len(self.texts) - self.done
            require_space(self.root, predicted_bytes(self.manifest, missing))
            self.writer = Writer(self.root, self.manifest, versions())
        return self.writer

    def _count(self) -> None:
        """How many are there; refuses trajectories of other prompts."""
        self.done = 0 if self.manifest is None else complete_count(self.root, self.manifest)
        if not self.done:
            return
        there = KnowledgeBase(self.root, hashes=False).prompts
        pairs = enumerate(zip(there, self.texts, strict=False))
        if first := next(((i, a, b) for i, (a, b) in pairs if a != b), None):
            raise UsageError(
                f"the KB {str(self.root)!r} holds other prompts: trajectory {first[0]} is of "
                f"{first[1]!r} and prompts[{first[0]}] is {first[2]!r}: give the prompts that it "
                "was recorded with and new ones after them, or choose another folder"
            )


def query(pipe: Any, prompts: list[str]) -> dict[str, Any]:
    """How a pipeline takes a batch of prompts; an unconditional one only takes its size."""
    parameters = inspect.signature(type(pipe).__call__).parameters
    return {"prompt": prompts} if "prompt" in parameters else {"batch_size": len(prompts)}


def _texts(prompts: str | Sequence[str]) -> list[str]:
    texts = [prompts] if isinstance(prompts, str) else list(prompts)
    if not texts:
        raise UsageError("prompts is empty: give at least one prompt")
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise UsageError(f"prompts[{i}] is {text!r}: every prompt is a text")
    return texts


def _check_steps(
    keys: Sequence[int],
    values: Sequence[int],
    budgets: Sequence[int],
    methods: Sequence[Fitted],
) -> None:
    if not budgets and not methods and not (keys and values):
        raise UsageError(
            "nothing would be kept: give key_step and value_steps, or budgets, or methods"
        )
    for method in methods:
        if not isinstance(method, Fitted):
            raise UsageError(f"methods has {method!r}, which is not fitted to a KB: leave it out")
    if values and not keys:
        raise UsageError(f"value_steps={list(values)} need a key_step before them: give it")
    if keys and (bad := [v for v in values if v <= min(keys)]):
        raise UsageError(f"value_steps has {bad[0]}, which is not after key_step={min(keys)}")
