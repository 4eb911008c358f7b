"""The embedded domain: a pure function of index and seed, with splits that never meet."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from redi.data.pixels import to_pixels, to_tensor
from redi.embedded.atlas import STYLES, nouns, sprite
from redi.embedded.backgrounds import COLOURS, KINDS, TWO_COLOURED, paint
from redi.embedded.captions import (
    SPLITS,
    Composition,
    captioned,
    prompts,
    sample,
    say_all,
)
from redi.embedded.scenes import ATTRIBUTES, Scene, draw_scene
from redi.embedded.tokenizer import MAX_TOKENS, merges_of, save_tokenizer, train_tokenizer
from redi.errors import UsageError


def said_things(composition: Composition) -> int:
    return sum(getattr(composition, name) is not None for name in ATTRIBUTES)


def test_a_composition_is_in_one_split_and_training_captions_keep_to_theirs() -> None:
    for split in SPLITS:
        drawn = [captioned(split, index)[1] for index in range(150)]
        assert {composition.split() for composition in drawn} == {split}
        for captions in ("open", "full"):
            asked = prompts(split, 100, captions=captions)[0]
            assert {composition.split() for composition in asked} == {split}
    hashed = Counter(say_all(draw_scene(np.random.default_rng(i))).split() for i in range(4000))
    for name, share in SPLITS.items():
        assert abs(hashed[name] / 4000 - share) < 0.03


def test_scenes_are_functions_of_split_index_and_seed() -> None:
    (scene, said, rng), (again, same, other) = (captioned("train", 12345, 3) for _ in range(2))
    assert scene == again and said == same and said.caption(rng) == same.caption(other)
    assert np.array_equal(scene.render(rng), again.render(other))
    assert sample("train", 12345, 3)[0] == scene != sample("train", 12345, 4)[0]


def test_prompts_are_distinct_and_a_smaller_list_is_a_prefix() -> None:
    for captions in ("open", "full"):
        said, texts = prompts("kb", 300, captions=captions)
        assert len(set(said)) == 300
        assert prompts("kb", 100, captions=captions)[1] == texts[:100]
        assert not set(said) & set(prompts("query", 300, captions=captions)[0])
    assert prompts("kb", 20, seed=1)[1] != prompts("kb", 20)[1]


def test_open_captions_say_two_to_four_things_and_full_ones_everything() -> None:
    open_ = prompts("query", 400)[0]
    assert {said_things(c) for c in open_} == {2, 3, 4}
    assert 0.9 < np.mean([c.object is not None for c in open_]) < 1
    for name in ATTRIBUTES:  # each thing is often said and often not
        said = np.mean([getattr(c, name) is not None for c in open_])
        assert 0.15 < said < (1.0 if name == "object" else 0.6), name
    for composition in prompts("query", 100, captions="full")[0]:
        assert None not in [getattr(composition, n) for n in ATTRIBUTES if n != "second"]
        assert (composition.accent is not None) == (composition.kind in TWO_COLOURED)


@pytest.mark.parametrize("attribute", ATTRIBUTES)
def test_a_caption_says_a_thing_if_the_composition_does(attribute: str) -> None:
    words = {
        "size": {"large", "big", "small", "little", "tiny"},
        "place": {"middle", "center", "left", "right", "top", "bottom"},
        "background": set(COLOURS),
        "kind": set(KINDS),
        "style": set(STYLES),
        "object": {word for noun in ATTRIBUTES["object"] for word in noun.split()},
        "second": {"with"},
    }[attribute]
    fixed = Composition("fox", "red", "flat", "small", "left", "plain", second="apple")
    told = replace(fixed, **{attribute: ATTRIBUTES[attribute][1]})
    for seed in range(50):
        rng = (np.random.default_rng(seed) for _ in range(2))
        said = told.caption(next(rng)).replace(",", "").split()
        bare = replace(told, **{attribute: None}).caption(next(rng)).replace(",", "").split()
        assert len(set(said) & words) > len(set(bare) & words) or attribute in ("object", "second")
        # the other words stay as they are
        assert len(set(bare) - set(said) - {"a", "an", "object", "in", "on", "at", "the"}) == 0


def test_captions_of_chosen_styles_name_them() -> None:
    said, texts = prompts("kb", 30, styles=("3d",))
    unsaid = prompts("kb", 30, styles=("3d",), omit=("style",))[1]
    assert {composition.style for composition in said} == {"3d"}
    assert all("3d style" in text for text in texts)
    assert not any("style" in text for text in unsaid)


def test_a_large_object_covers_more_and_lies_where_it_should() -> None:
    def mask(size: str, place: str) -> np.ndarray:
        scene = Scene("apple", "white", "flat", size, place)
        return np.abs(scene.render().astype(int) - COLOURS["white"]).sum(-1) > 60

    assert mask("large", "middle").sum() > 1.8 * mask("small", "middle").sum()
    for size in ATTRIBUTES["size"]:
        centres = {p: np.argwhere(mask(size, p)).mean(0) - 31.5 for p in ATTRIBUTES["place"]}
        assert centres["left"][1] < -5 < 5 < centres["right"][1]
        assert centres["top"][0] < -5 < 5 < centres["bottom"][0]
        assert np.abs(centres["middle"]).max() < 4


def test_one_scene_has_many_pictures() -> None:
    scene = Scene("fox", "blue", "3d", "small", "left", "striped", "white", "apple", ("key",))
    pictures = {scene.render(np.random.default_rng(seed)).tobytes() for seed in range(20)}
    assert len(pictures) == 20
    single = replace(scene, second=None, others=())
    assert np.abs(scene.render().astype(int) - single.render()).mean() > 2


def test_the_first_colour_of_a_background_covers_most_of_it() -> None:
    for kind in TWO_COLOURED:
        for seed in range(30):
            image = paint(kind, "blue", "orange", np.random.default_rng(seed))
            blue = np.abs(image - COLOURS["blue"]).sum(-1) < 30
            assert 0.45 < blue.mean() < 0.92, kind
    assert np.ptp(paint("shaded", "blue", None), axis=(0, 1)).min() > 40
    assert np.ptp(paint("plain", "blue", None), axis=(0, 1)).max() == 0


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
    with pytest.raises(UsageError, match="kind='plain' has no accent"):
        Scene("fox", "white", "flat", "large", "middle", "plain", "red")
    with pytest.raises(UsageError, match="place='above'"):
        Composition("fox", place="above")
    with pytest.raises(UsageError, match="'test' is unknown"):
        prompts("test", 1)
    with pytest.raises(UsageError, match=r"data\.captions='half' is unknown"):
        prompts("query", 1, captions="half")
    with pytest.raises(UsageError, match="'ink' is unknown"):
        prompts("query", 1, styles=("ink",))


def test_more_prompts_than_a_split_holds_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("redi.embedded.captions._TRIES", 30)
    with pytest.raises(UsageError, match="100000 prompts are wanted"):
        prompts("query", 100000, seed=99)


def test_pixels_survive_the_way_to_tensors_and_back() -> None:
    image = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3)
    assert np.array_equal(to_pixels(to_tensor(image)), image)


def test_every_caption_fits_the_tokenizer_word_by_word() -> None:
    tokenizer = train_tokenizer()
    for split in SPLITS:
        for captions in ("open", "full"):
            for text in prompts(split, 200, captions=captions)[1]:
                ids = tokenizer(text).input_ids
                assert len(ids) <= MAX_TOKENS
                assert tokenizer.decode(ids[1:-1]).replace(" ", "") == text.replace(" ", "")
    longest = Composition(
        *("gift box", "orange", "noto", "small", "middle", "striped", "yellow", "corn cob"),
        ("soccer ball", "pine tree"),
    )
    lengths = [
        len(tokenizer(longest.caption(np.random.default_rng(i))).input_ids) for i in range(20)
    ]
    assert max(lengths) <= MAX_TOKENS
    assert len(tokenizer("xylophone").input_ids) > 3  # unknown words fall back to pieces


def test_a_stage_keeps_its_tokenizer_and_another_one_is_equal(tmp_path: Path) -> None:
    first = save_tokenizer(tmp_path / "stage")
    assert save_tokenizer(tmp_path / "stage").get_vocab() == first.get_vocab()
    code = "from redi.embedded.tokenizer import train_tokenizer as t; print(t().get_vocab())"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ast.literal_eval(other.stdout) == first.get_vocab()


def test_byte_pairs_are_joined_by_frequency_then_alphabet() -> None:
    words = Counter({"aba": 3, "ab": 2, "cb": 5})
    assert merges_of(words, 9) == [("c", "b</w>"), ("a", "b"), ("ab", "a</w>"), ("a", "b</w>")]
    assert merges_of(words, 1) == [("c", "b</w>")]
