"""The embedded model's tokenizer: byte-pair encoding in which every caption word is one token."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, normalizers, pre_tokenizers
from transformers import CLIPTokenizer

from redi.embedded.atlas import nouns
from redi.embedded.captions import CAPTIONS, SPLITS, prompts

MAX_TOKENS = 36
MERGES = 1200
END = "</w>"  # of a word


def train_tokenizer() -> CLIPTokenizer:
    """A CLIP tokenizer for the scene captions; other text falls back to smaller pieces."""
    corpus = [
        text
        for split in SPLITS
        for captions in CAPTIONS
        for text in prompts(split, 500, captions=captions)[1]
    ]
    corpus += [f"a {noun}" for noun in nouns() for _ in range(20)]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges: list[Any] = [*merges_of(words_of(corpus), MERGES)]
    tokens = ["<|startoftext|>", "<|endoftext|>", *letters, *(letter + END for letter in letters)]
    tokens += ["".join(pair) for pair in merges]
    start: Any = AddedToken("<|startoftext|>", special=True)
    end: Any = AddedToken("<|endoftext|>", special=True)
    return CLIPTokenizer(
        vocab={token: number for number, token in enumerate(tokens)},
        merges=merges,
        model_max_length=MAX_TOKENS,
        unk_token=end,
        bos_token=start,
        eos_token=end,
        pad_token=end,
    )


def words_of(corpus: list[str]) -> Counter[str]:
    """How often each word stands in a corpus, in the letters of byte-level encoding."""
    lower = normalizers.Lowercase()
    split = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(r" ", "removed"), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    words = Counter[str]()
    for text, count in Counter(corpus).items():
        for word, _ in split.pre_tokenize_str(lower.normalize_str(text)):
            words[word] += count
    return words


def merges_of(words: Counter[str], limit: int) -> list[tuple[str, str]]:
    """Byte-pair encoding (Sennrich et al. 2016): the most frequent pair of pieces is joined first.

    Of equally frequent ones the first in the alphabet's order, so that training is repeatable.
    """
    spelt = {word: [*word[:-1], word[-1] + END] for word in words}
    merges: list[tuple[str, str]] = []
    while len(merges) < limit:
        pairs = Counter[tuple[str, str]]()
        for word, pieces in spelt.items():
            for pair in pairwise(pieces):
                pairs[pair] += words[word]
        if not pairs:
            break
        merges.append(min(pairs, key=lambda pair: (-pairs[pair], pair)))
        for pieces in spelt.values():
            _join(pieces, *merges[-1])
    return merges


def _join(pieces: list[str], left: str, right: str) -> None:
    """Replace every `left, right` by one piece, in place."""
    place = 0
    while place < len(pieces) - 1:
        if pieces[place] == left and pieces[place + 1] == right:
            pieces[place : place + 2] = [left + right]
        place += 1


def save_tokenizer(folder: Path) -> CLIPTokenizer:
    """The tokenizer in `folder`, trained and written there if there is none yet."""
    if not folder.is_dir():
        made = folder.with_name(f".{folder.name}")
        train_tokenizer().save_pretrained(made)
        made.rename(folder)
    return CLIPTokenizer.from_pretrained(folder)
