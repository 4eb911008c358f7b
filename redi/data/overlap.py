"""Whether queries are in the knowledge base, by prompt and by noise."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from redi.errors import UsageError


def same_to_a_model(prompt: str) -> str:
    """A prompt without what text encoders ignore: case, width of blanks, composition of letters."""
    return " ".join(unicodedata.normalize("NFC", prompt).casefold().split())


@dataclass(frozen=True)
class Overlap:
    """How many of `queries` have their prompt in the KB, and how many their very trajectory."""

    queries: int
    same_prompt: int
    same_prompt_and_noise: int
    #: the first query whose trajectory is there
    example: str | None = None

    def require_unseen(self, allowed: bool) -> None:
        """Refuse an evaluation that finds its own answers, unless that is asked for."""
        if self.same_prompt_and_noise and not allowed:
            raise UsageError(
                f"{self.same_prompt_and_noise} of {self.queries} queries are in the KB with the "
                f"same noise, such as {self.example!r}, and would find their own trajectory: use "
                "other query prompts, or data.allow_overlap=true to count them in"
            )

    def sentence(self) -> str:
        """What was checked and found, for people."""
        if not self.same_prompt:
            return f"Evaluating {self.queries} queries: no prompt of theirs is in the KB"
        return (
            f"Evaluating {self.queries} queries: {self.same_prompt} prompts of theirs are in the "
            f"KB, {self.same_prompt_and_noise} with the same noise"
        )


def overlap(
    prompts: Sequence[str],
    noises: Sequence[int],
    kb_prompts: Iterable[str],
    kb_noises: Iterable[int],
) -> Overlap:
    """Compare queries with trajectories: prompts as a model sees them, and noise ids."""
    known = {
        (same_to_a_model(prompt), int(noise))
        for prompt, noise in zip(kb_prompts, kb_noises, strict=True)
    }
    texts = {text for text, _ in known}
    asked = [same_to_a_model(prompt) for prompt in prompts]
    pairs = [pair in known for pair in zip(asked, noises, strict=True)]
    example = prompts[pairs.index(True)] if any(pairs) else None
    return Overlap(len(prompts), sum(text in texts for text in asked), sum(pairs), example)
