"""Take over a trained text encoder where the vocabulary or the longest caption has changed."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import CLIPTokenizer

_TOKENS = "embeddings.token_embedding.weight"
_POSITIONS = "embeddings.position_embedding.weight"


def carried_over(
    new: dict[str, Tensor],
    old: dict[str, Tensor],
    new_tokenizer: CLIPTokenizer,
    old_tokenizer: CLIPTokenizer,
) -> dict[str, Tensor]:
    """The old weights, with the embeddings of words and positions that both know.

    Words and positions that are new keep the value that they have in `new`.
    """
    result = {name: old[name].to(value.dtype) for name, value in new.items() if name in old}
    result |= {name: value for name, value in new.items() if name not in old}
    before, after = old_tokenizer.get_vocab(), new_tokenizer.get_vocab()
    shared = [(after[word], before[word]) for word in after if word in before]
    for name, value in new.items():
        if name.endswith(_TOKENS):
            rows = value.clone()
            to, source = (torch.tensor(side) for side in zip(*shared, strict=True))
            rows[to] = old[name][source].to(value.dtype)
            result[name] = rows
        elif name.endswith(_POSITIONS) and value.shape != old[name].shape:
            rows = value.clone()
            count = min(len(value), len(old[name]))
            rows[:count] = old[name][:count].to(value.dtype)
            result[name] = rows
        elif name.endswith("position_ids"):
            result[name] = value
    return result
