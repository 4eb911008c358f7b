"""The embedded model's tokenizer: byte-pair encoding in which every caption word is one token."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTokenizer

from redi.data.atlas import nouns
from redi.data.scenes import SPLITS, prompts

MAX_TOKENS = 24


def train_tokenizer() -> CLIPTokenizer:
    """A CLIP tokenizer for the scene captions; other text falls back to smaller pieces."""
    corpus = [text for split in SPLITS for text in prompts(split, 4000)[1]]
    corpus += [f"a {noun}" for noun in nouns() for _ in range(20)]
    tokenizer = Tokenizer(models.BPE(unk_token="<|endoftext|>", end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(r" ", "removed"), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=1400,
        special_tokens=["<|startoftext|>", "<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    vocabulary = tokenizer.get_vocab()
    for symbol in pre_tokenizers.ByteLevel.alphabet():  # any letter may end an unknown word
        vocabulary.setdefault(symbol + "</w>", len(vocabulary))
    merges = [tuple(pair) for pair in json.loads(tokenizer.to_str())["model"]["merges"]]
    end = AddedToken("<|endoftext|>", special=True)
    return CLIPTokenizer(
        vocab=vocabulary,
        merges=merges,
        model_max_length=MAX_TOKENS,
        unk_token=end,
        bos_token=AddedToken("<|startoftext|>", special=True),
        eos_token=end,
        pad_token=end,
    )


def save_tokenizer(folder: Path) -> CLIPTokenizer:
    """Train, write to `folder`, and return what a fresh load of it gives."""
    train_tokenizer().save_pretrained(folder)
    return CLIPTokenizer.from_pretrained(folder)
