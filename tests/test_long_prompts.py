"""PickScore, HPS v2, and prompts that are longer than CLIP's context."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

from redi.config import Config
from redi.data.pixels import to_tensor
from redi.embedded.tokenizer import train_tokenizer
from redi.errors import UsageError
from redi.metrics.batch import BatchResult
from redi.metrics.catalogue import metrics_from, wanted
from redi.metrics.long_prompts import windows
from redi.metrics.openai_clip import ClipScorer
from redi.metrics.weights import WEIGHTS

SHORT = ["a small red fox", "a large blue car on a table"]
LONG = " and ".join(["a small red fox", "a large blue car on a table", "a turtle with a key"] * 9)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """PickScore and HPS v2 with random weights: a CLIP, its tokenizer and its preprocessing."""
    torch.manual_seed(0)
    words = train_tokenizer()
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    text = {
        **sizes,
        "num_attention_heads": 2,
        "vocab_size": len(words),
        "max_position_embeddings": words.model_max_length,
        "bos_token_id": words.bos_token_id,
        "eos_token_id": words.eos_token_id,
        "pad_token_id": words.pad_token_id,
    }
    vision = {**sizes, "num_attention_heads": 2, "image_size": 16, "patch_size": 8}
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)
    processor = CLIPImageProcessor(
        size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}
    )
    root = tmp_path_factory.mktemp("weights")
    for name in ("pick", "hps"):
        for part in (CLIPModel(config), words, processor):
            part.save_pretrained(root / WEIGHTS[name].name)
    return root


def scorer(folder: Path, long_prompts: str, name: str = "pick") -> ClipScorer:
    return ClipScorer.load(folder / WEIGHTS[name].name, long_prompts)


@pytest.mark.parametrize(("group", "name"), [("pick", "pick_score"), ("hps", "hps_v2")])
def test_a_preference_is_the_models_own_logit(folder: Path, group: str, name: str) -> None:
    config = Config()
    config.metrics.hooks, config.metrics.weights = ["cost", "pick", "hps"], str(folder)
    metrics, notes = metrics_from(config)
    (metric,) = (m for m in metrics if m.name == name)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    batch = BatchResult([0, 1], SHORT, None, {}, {"full": to_tensor(pixels)}, 1)
    own = scorer(folder, "cut", group)
    images = own.processor(images=list(pixels), return_tensors="pt")
    tokens = own.tokenizer(SHORT, padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = own.model(**images, **tokens).logits_per_image.diag().double().numpy()
    assert notes == [] and metric.values(batch, "full") == pytest.approx(expected, rel=1e-5)
    assert np.ptp(expected) > 0.01


def test_without_weights_one_sentence_says_where_to_put_them(tmp_path: Path) -> None:
    config = Config()
    config.metrics.hooks, config.metrics.weights = ["cost", "pick", "hps"], str(tmp_path)
    metrics, (pick, hps) = metrics_from(config)
    assert [m.name for m in metrics] == ["cost"]
    assert pick.startswith("PickScore: left out") and str(tmp_path / "pickscore-v1") in pick
    assert hps.startswith("HPS v2: left out") and str(tmp_path / "hps-v2") in hps


def test_weights_of_another_layout_are_one_sentence(tmp_path: Path) -> None:
    config = Config()
    config.metrics.hooks, config.metrics.weights = ["cost", "hps"], str(tmp_path)
    (tmp_path / "hps-v2").mkdir()
    (tmp_path / "hps-v2" / "HPS_v2.1_compressed.pt").write_bytes(b"another layout")
    with pytest.raises(UsageError, match="hps-v2' are no CLIP that .*save_pretrained$") as error:
        metrics_from(config)
    assert "\n" not in str(error.value)


def test_windows_hold_every_token_once_and_are_even(folder: Path) -> None:
    words = scorer(folder, "windows").tokenizer
    tokens, counts = windows(words, [SHORT[0], LONG, ""])
    ids = words(LONG, add_special_tokens=False, verbose=False).input_ids
    room = words.model_max_length - 2
    assert counts == [1, -(-len(ids) // room), 1] and counts[1] > 2
    lengths = tokens["attention_mask"].sum(1)
    rows = [row[:n].tolist() for row, n in zip(tokens["input_ids"], lengths, strict=True)]
    assert rows[0] == words(SHORT[0]).input_ids and len(rows[-1]) == 2
    inside = rows[1:-1]
    assert [token for row in inside for token in row[1:-1]] == ids
    assert max(map(len, inside)) - min(map(len, inside)) <= 1
    assert all(row[0] == words.bos_token_id and row[-1] == words.eos_token_id for row in inside)
    assert lengths.max() <= words.model_max_length


def test_a_long_prompt_scores_the_mean_of_its_windows_and_a_short_one_as_ever(folder: Path) -> None:
    cut, whole = scorer(folder, "cut"), scorer(folder, "windows")
    pixels = np.random.default_rng(1).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    features = cut.image_features(list(pixels))
    prompts = [*SHORT, LONG]
    by_cut, by_windows = cut.cosine(features, prompts), whole.cosine(features, prompts)
    assert torch.allclose(by_cut[:2], by_windows[:2], atol=1e-6)
    tokens, counts = windows(whole.tokenizer, [LONG])
    with torch.no_grad():
        each = [
            whole.model.get_text_features(input_ids=row[None, : int(mask.sum())])
            for row, mask in zip(tokens["input_ids"], tokens["attention_mask"], strict=True)
        ]
    texts = [getattr(found, "pooler_output", found)[0] for found in each]
    expected = [float(torch.cosine_similarity(text, features[2], dim=0)) for text in texts]
    assert len(expected) == counts[0]
    assert float(by_windows[2]) == pytest.approx(np.mean(expected), abs=1e-6)
    kept = cut.tokenizer(LONG, truncation=True).input_ids
    assert len(kept) == cut.tokenizer.model_max_length  # and all that follows does not count
    longer = cut.cosine(features[2:], [LONG + " in the snow"])
    assert torch.allclose(by_cut[2:], longer) and not torch.allclose(
        by_windows[2:], whole.cosine(features[2:], [LONG + " in the snow"])
    )


def test_an_unknown_way_is_refused_before_any_work() -> None:
    config = Config()
    config.metrics.long_prompts = "mean"
    with pytest.raises(UsageError, match="metrics.long_prompts='mean' is unknown; use one of cut"):
        wanted(config)
