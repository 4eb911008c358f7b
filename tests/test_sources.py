"""Where models and captions come from: COCO folders and hub ids."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from PIL import Image
from torch import Tensor

from redi.composition import compose_config
from redi.config import Config, DataConfig, ModelConfig
from redi.data.coco import captions
from redi.errors import UsageError
from redi.metrics import needs, weights
from redi.metrics.catalogue import metrics_from
from redi.metrics.fid import Fid
from redi.metrics.real import real_pictures
from redi.verbs.assemble import model_from, prompts_from


def write_coco(root: Path, images: int = 12) -> None:
    """Two captions per image, listed in reverse, as COCO lists them in no order."""
    (root / "annotations").mkdir(parents=True)
    for split in ("train", "val"):
        notes = [
            {"image_id": 100 + i, "id": 10 * i + k, "caption": f" {split} {i}\n number {k} "}
            for i in range(images)
            for k in range(2)
        ]
        path = root / "annotations" / f"captions_{split}2014.json"
        path.write_text(json.dumps({"annotations": notes[::-1]}))


def test_every_image_gives_its_first_caption_once_in_a_seeded_order(tmp_path: Path) -> None:
    write_coco(tmp_path)
    texts = captions(str(tmp_path), "kb", seed=0)
    assert sorted(texts) == sorted(f"train {i} number 0" for i in range(12))
    assert texts == captions(str(tmp_path), "kb", seed=0) != captions(str(tmp_path), "kb", seed=1)
    config = DataConfig(name="coco2014", root=str(tmp_path))
    few, more = (prompts_from(config, "query", n).texts for n in (3, 9))
    assert more[:3] == few and all(text.startswith("val") for text in more)
    with pytest.raises(UsageError, match="holds 12 prompts and 13 are wanted"):
        prompts_from(config, "query", 13)


def test_a_missing_or_foreign_caption_file_is_named_with_the_layout(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="data.root is not set.*captions_train2014.json"):
        captions(None, "kb", 0)
    with pytest.raises(UsageError, match="annotations/captions_train2014.json: unpack"):
        captions(str(tmp_path), "kb", 0)
    write_coco(tmp_path)
    (tmp_path / "annotations" / "captions_val2014.json").write_text('{"images": []}')
    with pytest.raises(UsageError, match="is not a COCO caption file"):
        captions(str(tmp_path), "query", 0)


def test_validation_images_are_the_real_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_coco(tmp_path)
    config = Config(data=DataConfig(name="coco2014", root=str(tmp_path), seed=3))
    config.metrics.real_images, config.metrics.hooks = 5, ["cost", "inception"]
    with pytest.raises(UsageError, match="has no val2014: unpack .*COCO_val2014_000000000042.jpg"):
        real_pictures(config)
    (tmp_path / "val2014").mkdir()
    for i in range(12):  # image i is of colour 20 i, saved without loss of flat colours
        picture = Image.new(
            "L" if i == 4 else "RGB", (6 + i, 8), 20 * i if i == 4 else (20 * i,) * 3
        )
        picture.save(tmp_path / "val2014" / f"COCO_val2014_{100 + i:012d}.jpg", quality=100)
    found = real_pictures(config)
    asked = [int(text.split()[1]) for text in captions(str(tmp_path), "query", 3)[:5]]
    assert [p.shape for p in found] == [(8, 6 + i, 3) for i in asked]
    assert all(abs(p.astype(int) - 20 * i).max() <= 1 for p, i in zip(found, asked, strict=True))

    seen: list[int] = []

    def features(images: Tensor) -> Tensor:
        seen.append(len(images))
        return images.mean((2, 3))

    monkeypatch.setattr(needs, "locate", lambda *_: tmp_path)
    monkeypatch.setattr(weights, "inception", lambda _: features)
    found_metrics, _ = metrics_from(config)
    shared = next(m.inception for m in found_metrics if isinstance(m, Fid))
    assert seen == [5] and shared.real[:, 0] == pytest.approx([20 * i for i in asked], abs=1)
    config.metrics.real_images = 13
    with pytest.raises(UsageError, match="real_images=13 is more than the 12 captioned images"):
        real_pictures(config)
    config.metrics.real_images = 12
    (tmp_path / "val2014" / "COCO_val2014_000000000107.jpg").unlink()
    with pytest.raises(UsageError, match="lacks 1 of 12 images .*COCO_val2014_000000000107.jpg"):
        real_pictures(config)
    (tmp_path / "val2014" / "COCO_val2014_000000000107.jpg").write_bytes(b"half")
    with pytest.raises(UsageError, match="000000000107.jpg' is not a picture"):
        real_pictures(config)


@pytest.mark.parametrize("name", ["sd15", "sd21", "sdxl", "sd3", "flux"])
def test_a_model_that_cannot_be_had_says_what_to_download_and_where_to_put_it(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(hub_id: str, **options: Any) -> str:
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    config = compose_config("run", [f"model={name}"]).model
    assert isinstance(config, ModelConfig) and config.hub_id is not None
    with pytest.raises(UsageError) as error:
        model_from(config, 7.5, "")
    assert all(w in str(error.value) for w in (config.hub_id, "hf download", "model.path=DIR"))


def test_a_cached_model_is_found_without_the_network(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def cached(hub_id: str, local_files_only: bool, **options: Any) -> str:
        asked.append(local_files_only)
        return str(tiny_folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", cached)
    assert model_from(ModelConfig(hub_id="someone/model"), 2.0, "").guided
    assert asked == [True]
