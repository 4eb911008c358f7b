"""The embedded model's tokenizer: byte-pair encoding in which every caption word is one token."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTokenizer

from redi.embedded.atlas import nouns
from redi.embedded.captions import CAPTIONS, SPLITS, prompts

MAX_TOKENS = 36


def train_tokenizer() -> CLIPTokenizer:
    """A CLIP tokenizer for the scene captions; other text falls back to smaller pieces."""
    corpus = [
        text
        for split in SPLITS
        for captions in CAPTIONS
        for text in prompts(split, 2000, captions=captions)[1]
    ]
    corpus += [f"a {noun}" for noun in nouns() for _ in range(20)]
    tokenizer = Tokenizer(models.BPE(unk_token="<|endoftext|>", end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(r" ", "removed"), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=1400,
        special_tokens=["<|startoftext|>", "<|endoftext|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    vocabulary = tokenizer.get_vocab()
    for symbol in sorted(pre_tokenizers.ByteLevel.alphabet()):  # any letter may end an unknown word
        vocabulary.setdefault(symbol + "</w>", len(vocabulary))
    merges: list[Any] = [tuple(pair) for pair in json.loads(tokenizer.to_str())["model"]["merges"]]
    start: Any = AddedToken("<|startoftext|>", special=True)
    end: Any = AddedToken("<|endoftext|>", special=True)
    return CLIPTokenizer(
        vocab=vocabulary,
        merges=merges,
        model_max_length=MAX_TOKENS,
        unk_token=end,
        bos_token=start,
        eos_token=end,
        pad_token=end,
    )


def save_tokenizer(folder: Path) -> CLIPTokenizer:
    """The tokenizer in `folder`, trained and written there if there is none yet.

    Training numbers its tokens in an order that differs between processes, so a stage that
    resumes has to go on with the one it began with.
    """
    if not (folder / "tokenizer.json").is_file():
        train_tokenizer().save_pretrained(folder)
    return CLIPTokenizer.from_pretrained(folder)
