"""Prompts that are longer than a CLIP's context: cut, or scored by windows.

`cut` keeps what fits, as published scores do: what is said after it does not count. `windows`
splits the prompt into the fewest windows that fit, as even as can be; the score is the mean of
theirs. A prompt that fits has the same score either way.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from redi.lazy import Tensor, torch

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

LONG_PROMPTS = ("cut", "windows")


def windows(
    tokenizer: CLIPTokenizer, captions: Sequence[str]
) -> tuple[dict[str, Tensor], list[int]]:
    """Tokens of all windows of some captions, and how many each caption has.

    Returns:
        `input_ids` and `attention_mask`, int64 (W, T), each window between the tokenizer's start
        and end, and the counts, which add up to W.
    """
    room = tokenizer.model_max_length - 2
    start, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    rows, counts = list[list[int]](), list[int]()
    for ids in tokenizer(list(captions), add_special_tokens=False, verbose=False).input_ids:
        parts = np.array_split(np.asarray(ids, np.int64), max(1, -(-len(ids) // room)))
        rows += [[start, *part.tolist(), end] for part in parts]
        counts.append(len(parts))
    longest = max(map(len, rows))
    padded = [row + [tokenizer.pad_token_id] * (longest - len(row)) for row in rows]
    seen = [[1] * len(row) + [0] * (longest - len(row)) for row in rows]
    return {"input_ids": torch.tensor(padded), "attention_mask": torch.tensor(seen)}, counts
