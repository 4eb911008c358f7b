"""The embedded domain: a pure function of index and seed, with splits that never meet."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from redi.data.pixels import to_pixels, to_tensor
from redi.embedded.atlas import STYLES, nouns, sprite
from redi.embedded.scenes import (
    ATTRIBUTES,
    BACKGROUNDS,
    SPLITS,
    Scene,
    compositions,
    prompts,
    sample,
)
from redi.embedded.tokenizer import MAX_TOKENS, save_tokenizer, train_tokenizer
from redi.errors import UsageError


def test_splits_cover_all_compositions_once() -> None:
    parts = [set(compositions(name)) for name in SPLITS]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 32 * 8 * 3 * 2 * 5
    for name, part in zip(SPLITS, parts, strict=True):
        assert abs(len(part) / 7680 - SPLITS[name]) < 0.02
        for attribute, values in ATTRIBUTES.items():  # every word is in every split
            assert {getattr(scene, attribute) for scene in part} == set(values)


def test_scenes_are_functions_of_index_and_seed() -> None:
    (scene, rng), (again, other) = sample("train", 12345, 3), sample("train", 12345, 3)
    assert scene == again and scene.caption(rng) == again.caption(other)
    assert np.array_equal(scene.render(rng), again.render(other))
    assert sample("train", 12345, 4)[0] != scene or sample("train", 12346, 3)[0] != scene


def test_prompts_are_distinct_and_a_smaller_list_is_a_prefix() -> None:
    scenes, texts = prompts("kb", 500)
    assert len(set(scenes)) == 500 and prompts("kb", 100)[1] == texts[:100]
    assert not set(scenes) & set(prompts("query", 500)[0])


@pytest.mark.parametrize("attribute", ATTRIBUTES)
def test_captions_say_every_attribute_unless_it_is_omitted(attribute: str) -> None:
    words = {
        "size": {"large", "big", "small", "little", "tiny"},
        "place": {"middle", "center", "left", "right", "top", "bottom"},
        "background": set(BACKGROUNDS),
        "style": set(STYLES),
        "object": {word for noun in ATTRIBUTES["object"] for word in noun.split()},
    }[attribute]
    for index in range(200):
        scene, rng = sample("train", index)
        said = set(scene.caption(rng).replace(",", "").split())
        assert said & words
        unsaid = set(scene.caption(rng, omit=(attribute,)).replace(",", "").split())
        assert not unsaid & words


def test_a_large_object_covers_more_and_lies_where_it_should() -> None:
    def mask(size: str, place: str) -> np.ndarray:
        scene = Scene("apple", "white", "flat", size, place)
        return np.abs(scene.render().astype(int) - BACKGROUNDS["white"]).sum(-1) > 60

    assert mask("large", "middle").sum() > 1.8 * mask("small", "middle").sum()
    for size in ATTRIBUTES["size"]:
        centres = {p: np.argwhere(mask(size, p)).mean(0) - 31.5 for p in ATTRIBUTES["place"]}
        assert centres["left"][1] < -5 < 5 < centres["right"][1]
        assert centres["top"][0] < -5 < 5 < centres["bottom"][0]
        assert np.abs(centres["middle"]).max() < 4


def test_sprites_are_premultiplied_and_differ_between_styles() -> None:
    assert len(nouns()) > 96
    drawings = [sprite("fox", style, 40) for style in STYLES]
    for drawing in drawings:
        assert drawing.shape == (40, 40, 4)
        assert (drawing[..., :3] - drawing[..., 3:]).max() < 0.2  # resampling overshoots a little
    assert np.abs(drawings[0] - drawings[1]).mean() > 0.02


def test_unknown_values_are_named() -> None:
    with pytest.raises(UsageError, match="object='dragon'"):
        Scene("dragon", "white", "flat", "large", "middle")
    with pytest.raises(UsageError, match="'test' is unknown"):
        compositions("test")


def test_pixels_survive_the_way_to_tensors_and_back() -> None:
    image = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3)
    assert np.array_equal(to_pixels(to_tensor(image)), image)


def test_every_caption_fits_the_tokenizer_word_by_word() -> None:
    tokenizer = train_tokenizer()
    for split in SPLITS:
        for text in prompts(split, 300)[1]:
            ids = tokenizer(text).input_ids
            assert len(ids) <= MAX_TOKENS
            assert tokenizer.decode(ids[1:-1]).replace(" ", "") == text.replace(" ", "")
    assert len(tokenizer("xylophone").input_ids) > 3  # unknown words fall back to pieces


def test_a_resumed_stage_keeps_its_tokenizer(tmp_path: Path) -> None:
    first = save_tokenizer(tmp_path).get_vocab()
    assert save_tokenizer(tmp_path).get_vocab() == first
