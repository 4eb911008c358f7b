"""Published metrics against the packages that define them, with an injected extractor."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from redi.metrics.diversity import pairwise_distance
from redi.metrics.frechet import fit_gaussian, frechet_distance, kernel_distance
from redi.metrics.images import byte_features, clean_features, cmmd
from redi.metrics.weights import WEIGHTS, locate


class Extractor(nn.Module):
    """A fixed random projection of a coarse view of the picture, in float64."""

    num_features = 6

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.matrix = torch.randn(3 * 16, 6, generator=generator).double() / 100

    def forward(self, images: Tensor) -> Tensor:
        coarse = nn.functional.adaptive_avg_pool2d(images.double(), 4).flatten(1)
        return torch.sin(coarse @ self.matrix) + coarse @ self.matrix / 10


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two folders of 14 pictures of odd sizes."""
    rng, root = np.random.default_rng(0), tmp_path_factory.mktemp("pictures")
    for name, level in (("a", 0), ("b", 40)):
        (root / name).mkdir()
        for i in range(14):
            noise = rng.integers(0, 200, (9, 7, 3)) + level
            Image.fromarray(noise.astype(np.uint8)).save(root / name / f"{i:02d}.png")
    return root / "a", root / "b"


def read(folder: Path) -> list[np.ndarray]:
    return [np.array(Image.open(path)) for path in sorted(folder.glob("*.png"))]


def distance(a: np.ndarray, b: np.ndarray) -> float:
    return frechet_distance(fit_gaussian(a), fit_gaussian(b))


def test_fid_and_kid_are_those_of_clean_fid(folders: tuple[Path, Path]):
    from cleanfid import fid

    extractor, cpu = Extractor(), torch.device("cpu")
    theirs = [
        fid.get_folder_features(
            str(f), extractor, num_workers=0, device=cpu, mode="clean", verbose=False
        )
        for f in folders
    ]
    ours = [clean_features(read(folder), extractor) for folder in folders]
    for mine, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-9)
    # compare_folders is what clean-fid's compute_fid calls for two folders
    entry = fid.compare_folders(
        *map(str, folders), extractor, mode="clean", num_workers=0, device=cpu, verbose=False
    )
    assert distance(*ours) == pytest.approx(entry, rel=1e-6)
    kid = fid.kernel_distance(*theirs, num_subsets=1)  # one subset of all pictures
    assert kernel_distance(*ours) == pytest.approx(kid, rel=1e-6)


def test_fid_is_that_of_torchmetrics(folders: tuple[Path, Path]):
    from torchmetrics.image.fid import FrechetInceptionDistance

    extractor = Extractor()
    metric = FrechetInceptionDistance(feature=extractor)
    for real, folder in zip((True, False), folders, strict=True):
        for picture in read(folder):
            metric.update(torch.from_numpy(picture).permute(2, 0, 1)[None], real=real)
    ours = distance(*(byte_features(read(folder), extractor) for folder in folders))
    assert ours == pytest.approx(float(metric.compute()), rel=1e-6)


def test_cmmd_is_its_formula_and_zero_for_equal_sets():
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(5, 4)), rng.normal(size=(6, 4)) + 1
    assert cmmd(a, a) == pytest.approx(0, abs=1e-9)

    def mean(x: np.ndarray, y: np.ndarray) -> float:
        return float(np.mean([np.exp(-np.sum((p - q) ** 2) / 200) for p in x for q in y]))

    assert cmmd(a, b) == pytest.approx(1000 * (mean(a, a) + mean(b, b) - 2 * mean(a, b)))


def test_diversity_is_the_mean_distance_of_pairs():
    rows = np.zeros((2, 3, 2))
    rows[0] = [[0, 0], [3, 4], [0, 0]]
    np.testing.assert_allclose(pairwise_distance(rows), [10 / 3, 0])
    with pytest.raises(ValueError, match="at least 2 pictures"):
        pairwise_distance(rows[:, :1])


def test_clip_score_is_the_direct_computation(tmp_path: Path):
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    from redi.metrics.openai_clip import ClipScorer
    from redi.tasks.train_tokenizer import train_tokenizer

    tokenizer = train_tokenizer()
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    text = small | {"num_attention_heads": 2, "vocab_size": len(tokenizer)}
    text |= {"eos_token_id": tokenizer.eos_token_id, "max_position_embeddings": 32}
    vision = small | {"num_attention_heads": 2, "image_size": 16, "patch_size": 8}
    torch.manual_seed(0)
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8))
    processor = CLIPImageProcessor(
        size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}
    )
    for part in (model, tokenizer, processor):
        part.save_pretrained(tmp_path)
    scorer = ClipScorer.load(tmp_path)
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (24, 20, 3), dtype=np.uint8) for _ in range(3)]
    captions = ["a cat", "a small dog on a red background", "a cat on the left"]
    with torch.no_grad():
        inputs = scorer.processor(images=pictures, return_tensors="pt")
        tokens = scorer.tokenizer(captions, padding=True, return_tensors="pt")
        output = scorer.model(
            input_ids=tokens.input_ids,
            attention_mask=tokens.attention_mask,
            pixel_values=inputs["pixel_values"],
        )
        direct = 100 * (output.image_embeds * output.text_embeds).sum(1).clamp(min=0)
    np.testing.assert_allclose(scorer.score(pictures, captions), direct.numpy(), rtol=1e-6)


def test_missing_weights_are_one_sentence_with_the_path(tmp_path: Path):
    for kind, weights in WEIGHTS.items():
        told = locate(kind, tmp_path, download=False)
        assert isinstance(told, str) and "left out" in told
        assert str(tmp_path / weights.name) in told and told.count("\n") == 0
        (tmp_path / weights.name).touch()
        assert locate(kind, tmp_path, download=False) == tmp_path / weights.name


def test_a_failed_download_leaves_no_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def broken(path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError("connection lost")

    monkeypatch.setitem(WEIGHTS, "lpips", type(WEIGHTS["lpips"])("LPIPS", "alex.pth", broken))
    told = locate("lpips", tmp_path, download=True)
    assert isinstance(told, str) and "connection lost" in told
    assert not (tmp_path / "alex.pth").exists()
