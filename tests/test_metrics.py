"""Metrics against closed forms and against the libraries that define them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from cleanfid import fid as cleanfid
from torchmetrics.functional.image import structural_similarity_index_measure
from torchmetrics.functional.multimodal import clip_score
from torchmetrics.image import StructuralSimilarityIndexMeasure
from torchmetrics.image.fid import FrechetInceptionDistance
from transformers import CLIPModel, CLIPTokenizer

from redi.config import Config, DataConfig
from redi.embedded.captions import say_all
from redi.embedded.evaluator import (
    TrainEvaluator,
    finish,
    fits,
    new_evaluator,
    single_captions,
    values_of,
)
from redi.embedded.scenes import ATTRIBUTES
from redi.embedded.stream import scene_batch
from redi.embedded.tokenizer import train_tokenizer
from redi.embedded.training import StageConfig
from redi.metrics.batch import Table
from redi.metrics.evaluator import Evaluator, tokenize
from redi.metrics.fd_scene import FDScene
from redi.metrics.frechet import (
    Gaussian,
    fit_gaussian,
    frechet_distance,
    kernel_distance,
    mean_kernel,
    resampled_kernel_distance,
)
from redi.metrics.intervals import bootstrap_statistic
from redi.metrics.kid_scene import KidScene
from redi.metrics.latent_error import latent_error
from redi.metrics.precision_recall import Precision, Recall, covered, radii
from redi.metrics.prompt_fidelity import attribute_hits
from redi.metrics.psnr import psnr
from redi.metrics.sets import SetMetric
from redi.metrics.ssim import ssim


@pytest.fixture(scope="module")
def tokenizer() -> CLIPTokenizer:
    return train_tokenizer()


@pytest.fixture(scope="module")
def model(tokenizer: CLIPTokenizer) -> CLIPModel:
    torch.manual_seed(0)
    return new_evaluator(tokenizer)


@pytest.fixture(scope="module")
def evaluator(model: CLIPModel, tokenizer: CLIPTokenizer) -> Evaluator:
    return Evaluator(model, tokenizer)


@pytest.fixture(scope="module")
def batch():
    return scene_batch("query", 0, 66, seed=5)


def features(count: int, dimension: int, seed: int, spread: float = 1.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    mix = rng.normal(size=(dimension, dimension))
    return spread * rng.normal(size=(count, dimension)) @ mix + rng.normal(size=dimension)


# Fréchet distance and KID


def test_kernel_distances_of_drawn_rows_are_those_of_the_rows():
    rng = np.random.default_rng(5)
    a, b = rng.normal(size=(30, 6)), rng.normal(size=(20, 6)) + 0.3
    score = resampled_kernel_distance(a, b, mean_kernel(b))
    for rows in (np.arange(30), rng.integers(30, size=30), np.array([3, 3, 3, 7])):
        assert score(rows) == pytest.approx(kernel_distance(a[rows], b), rel=1e-12, abs=1e-14)


def test_frechet_of_commuting_gaussians_has_a_closed_form():
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    first, second = rng.uniform(0.1, 4, 6), rng.uniform(0.1, 4, 6)
    shift = rng.normal(size=6)
    a = Gaussian(np.zeros(6), basis @ np.diag(first) @ basis.T, 100)
    b = Gaussian(shift, basis @ np.diag(second) @ basis.T, 100)
    expected = shift @ shift + ((np.sqrt(first) - np.sqrt(second)) ** 2).sum()
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-12)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-12)


def test_frechet_of_equal_sets_is_zero_even_when_singular():
    few = fit_gaussian(features(5, 20, 1), allow_few=True)
    scale = np.trace(few.covariance)
    assert abs(frechet_distance(few, few)) < 1e-12 * scale


def test_frechet_agrees_with_cleanfid():
    a, b = features(200, 16, 1), features(150, 16, 2, spread=0.5)
    expected = cleanfid.frechet_distance(
        a.mean(0), np.cov(a, rowvar=False), b.mean(0), np.cov(b, rowvar=False)
    )
    assert frechet_distance(fit_gaussian(a), fit_gaussian(b)) == pytest.approx(expected, rel=1e-6)


class ChannelBlocks(torch.nn.Module):
    """Twelve features of a uint8 picture: the mean of each quadrant of each channel."""

    num_features = 12

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.adaptive_avg_pool2d(images.float(), 2).flatten(1)


def test_frechet_agrees_with_torchmetrics_and_an_injected_extractor():
    generator = torch.Generator().manual_seed(0)
    a = torch.randint(0, 200, (60, 3, 16, 16), generator=generator, dtype=torch.uint8)
    b = torch.randint(60, 255, (50, 3, 16, 16), generator=generator, dtype=torch.uint8)
    extractor = ChannelBlocks()
    metric = FrechetInceptionDistance(extractor).set_dtype(torch.float64)
    metric.update(a, real=True)
    metric.update(b, real=False)
    ours = frechet_distance(fit_gaussian(extractor(a)), fit_gaussian(extractor(b)))
    assert ours == pytest.approx(float(metric.compute()), rel=1e-6)


def test_few_images_are_refused():
    with pytest.raises(ValueError, match="features has 5 images for 20 feature dimensions"):
        fit_gaussian(features(5, 20, 1))
    with pytest.raises(ValueError, match="at least 2 images"):
        fit_gaussian(features(1, 1, 1), allow_few=True)
    with pytest.raises(ValueError, match="one extractor for both"):
        frechet_distance(fit_gaussian(features(9, 3, 1)), fit_gaussian(features(9, 4, 1)))
    with pytest.raises(ValueError, match="not finite"):
        fit_gaussian(np.full((4, 2), np.nan))


def test_kid_agrees_with_cleanfid_and_with_the_double_sum():
    a, b = features(40, 6, 3), features(40, 6, 4)
    expected = cleanfid.kernel_distance(a, b, num_subsets=1, max_subset_size=40)
    assert kernel_distance(a, b) == pytest.approx(expected, rel=1e-9)

    short = b[:7]

    def kernel(x: np.ndarray, y: np.ndarray) -> float:
        return float((x @ y / 6 + 1) ** 3)

    def mean(left: np.ndarray, right: np.ndarray, same: bool) -> float:
        pairs = [
            kernel(x, y)
            for i, x in enumerate(left)
            for j, y in enumerate(right)
            if not (same and i == j)
        ]
        return float(np.mean(pairs))

    by_hand = mean(a, a, True) + mean(short, short, True) - 2 * mean(a, short, False)
    assert kernel_distance(a, short) == pytest.approx(by_hand, rel=1e-9)


def test_kid_refuses_what_it_cannot_compare():
    with pytest.raises(ValueError, match="at least 2 of each"):
        kernel_distance(np.zeros((1, 3)), np.zeros((4, 3)))
    with pytest.raises(ValueError, match="3 and 4"):
        kernel_distance(np.zeros((5, 3)), np.zeros((5, 4)))


# Paired metrics


def test_psnr_by_hand():
    black = torch.full((3, 3, 16, 16), -1.0)
    other = black.clone()
    other[0] += 0.2  # 0.1 in [0, 1]: 20 dB
    other[1, :, :8] += 0.02  # 0.01 on half of the pixels
    expected = [20.0, 40 + 10 * np.log10(2), np.inf]
    np.testing.assert_allclose(psnr(black, other).numpy(), expected, rtol=1e-5)


def test_ssim_is_one_for_equal_pictures_and_agrees_with_torchmetrics():
    generator = torch.Generator().manual_seed(1)
    a = torch.rand(4, 3, 32, 32, generator=generator) * 2 - 1
    b = (a + 0.3 * torch.randn(a.shape, generator=generator)).clamp(-1, 1)
    torch.testing.assert_close(ssim(a, a), torch.ones(4, dtype=torch.float64))
    each = [
        StructuralSimilarityIndexMeasure(data_range=(-1.0, 1.0))(x[None], y[None])
        for x, y in zip(a, b, strict=True)
    ]
    in_unit_range = [
        StructuralSimilarityIndexMeasure(data_range=1.0)((x[None] + 1) / 2, (y[None] + 1) / 2)
        for x, y in zip(a, b, strict=True)
    ]
    torch.testing.assert_close(ssim(a, b).float(), torch.stack(in_unit_range), atol=1e-4, rtol=0)
    assert not torch.allclose(ssim(a, b).float(), torch.stack(each), atol=1e-3)
    exact = structural_similarity_index_measure(
        (a.double() + 1) / 2, (b.double() + 1) / 2, reduction="none", data_range=1.0
    )
    torch.testing.assert_close(ssim(a, b), exact, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(ssim(a, b)[2:3], ssim(a[2:3], b[2:3]))


def test_latent_error_is_relative_and_per_sample():
    reference = torch.tensor([[3.0, 4.0], [0.0, 2.0]]).reshape(2, 1, 1, 2)
    moved = reference + torch.tensor([[0.0, 1.0], [0.5, 0.0]]).reshape(2, 1, 1, 2)
    torch.testing.assert_close(
        latent_error(moved, reference), torch.tensor([0.2, 0.25], dtype=torch.float64)
    )
    with pytest.raises(ValueError, match=r"reference\[1\] is all zeros"):
        latent_error(moved, reference * torch.tensor([1.0, 0.0]).reshape(2, 1, 1, 1))


def test_paired_metrics_refuse_other_ranges_and_shapes():
    with pytest.raises(ValueError, match="scale them to"):
        psnr(torch.full((1, 3, 16, 16), 255.0), torch.zeros(1, 3, 16, 16))
    with pytest.raises(ValueError, match="two of one shape"):
        psnr(torch.zeros(1, 3, 16, 16), torch.zeros(2, 3, 16, 16))
    with pytest.raises(ValueError, match="floats"):
        psnr(*2 * [torch.zeros(1, 3, 16, 16, dtype=torch.uint8)])
    with pytest.raises(ValueError, match="11 pixels"):
        ssim(torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 8))


# Evaluator


def test_features_do_not_depend_on_the_batch(evaluator, batch):
    images, captions = batch.images, batch.captions
    together = evaluator.image_features(images)
    assert together.shape == (66, evaluator.dimension) and together.dtype == torch.float32
    torch.testing.assert_close(together.norm(dim=1), torch.ones(66))
    apart = torch.cat([evaluator.image_features(images[i : i + 1]) for i in (0, 33, 65)])
    assert torch.equal(together[[0, 33, 65]], apart)
    texts = evaluator.text_features(captions)
    assert torch.equal(texts[[0, 65]], evaluator.text_features([captions[0], captions[65]]))
    assert evaluator.image_features(images[:0]).shape == (0, evaluator.dimension)


@pytest.mark.parametrize("sign", [1, -1])
def test_clip_score_agrees_with_the_model_and_with_torchmetrics(model, tokenizer, batch, sign):
    images, captions = batch.images[:6], batch.captions[:6]
    turned = copy.deepcopy(model)
    turned.text_projection.weight.data *= sign
    scores = Evaluator(turned, tokenizer).clip_score(images, captions)
    with torch.no_grad():
        output = turned(input_ids=tokenize(tokenizer, captions), pixel_values=images)
    cosine = (output.image_embeds * output.text_embeds).sum(1)
    torch.testing.assert_close(scores, 100 * cosine.clamp(min=0), atol=1e-4, rtol=1e-4)

    class Adapter(torch.nn.Module):  # torchmetrics 1.9 expects tensors, transformers 5 returns more
        config = turned.config

        def get_image_features(self, pixels):
            return turned.get_image_features(pixels).pooler_output

        def get_text_features(self, tokens, mask):
            return turned.get_text_features(tokens, mask).pooler_output

    def processor(text=None, images=None, **settings):
        if images is not None:
            return {"pixel_values": torch.stack(images)}
        return tokenizer(text, **settings)

    for i, score in enumerate(scores):
        with torch.no_grad():
            theirs = clip_score(images[i], captions[i], lambda: (Adapter(), processor))
        assert float(theirs) == pytest.approx(float(score), abs=1e-3)


def test_predictions_follow_the_prototypes(evaluator, batch):
    images = batch.images[:8]
    seen = evaluator.predict(images)
    image_features = evaluator.image_features(images)
    for name, values in ATTRIBUTES.items():
        prototypes = evaluator.prototypes(name)
        assert prototypes.shape == (len(values), evaluator.dimension)
        assert prototypes is evaluator.prototypes(name)
        nearest = torch.cdist(image_features, prototypes).argmin(1)
        assert seen[name] == [values[i] for i in nearest]


def test_evaluator_refuses_bad_input(evaluator, tmp_path: Path):
    with pytest.raises(ValueError, match=r"give \(B, 3, 64, 64\)"):
        evaluator.image_features(torch.zeros(2, 3, 32, 32))
    with pytest.raises(ValueError, match=r"scale them to \[-1, 1\]"):
        evaluator.image_features(torch.full((1, 3, 64, 64), 3.0))
    with pytest.raises(ValueError, match="give a list of strings"):
        evaluator.text_features("a fox")
    with pytest.raises(ValueError, match="1 entries for 2 images"):
        evaluator.clip_score(torch.zeros(2, 3, 64, 64), ["a fox"])
    with pytest.raises(ValueError, match="attribute 'colour' is unknown"):
        evaluator.prototypes("colour")
    with pytest.raises(ValueError, match="lacks config.json, model.safetensors, tokenizer.json"):
        Evaluator.load(tmp_path)


def test_prompt_fidelity_counts_what_is_said_and_seen(evaluator, batch):
    class Oracle(Evaluator):
        def predict(self, images):
            seen = {n: [getattr(s, n) for s in batch.scenes[: len(images)]] for n in ATTRIBUTES}
            seen["place"] = ["middle"] * len(images)
            return seen

    oracle = Oracle(evaluator.model, evaluator.tokenizer)
    everything = [say_all(scene) for scene in batch.scenes]
    hits = attribute_hits(batch.images, everything, oracle)
    in_the_middle = np.array([scene.place == "middle" for scene in batch.scenes], np.float64)
    assert 0 < in_the_middle.mean() < 1
    for name in ("object", "background", "kind", "style", "size"):
        assert hits[name].tolist() == [1.0] * 66
    np.testing.assert_array_equal(hits["place"], in_the_middle)
    np.testing.assert_array_equal(hits["all"], in_the_middle)
    alone = np.array([scene.second is None for scene in batch.scenes])
    np.testing.assert_array_equal(np.isnan(hits["second"]), alone)

    partial = attribute_hits(batch.images, batch.said, oracle)
    for name in ATTRIBUTES:
        unsaid = np.array([getattr(said, name) is None for said in batch.said])
        np.testing.assert_array_equal(np.isnan(partial[name]), unsaid)
    wrong = [said.place not in (None, "middle") for said in batch.said]
    np.testing.assert_array_equal(partial["all"], 1.0 - np.array(wrong))
    with pytest.raises(ValueError, match="3 entries for 2 images"):
        attribute_hits(batch.images[:2], everything[:3], oracle)


def test_means_leave_out_prompts_that_do_not_say_an_attribute():
    table = Table(repeats=2)
    values = np.array([1.0, 0.0, np.nan, np.nan, 1.0, 1.0])
    table.add("full", list(range(6)), {"correct_size": values, "psnr": values})
    said = table.by_prompt("full", "correct_size")
    assert said is not None and said.tolist() == [0.5, 1.0]
    assert np.isnan(table.by_prompt("full", "psnr")).any()  # what cannot be unsaid is not hidden
    nothing = {"correct_kind": np.full(2, np.nan)}
    table = Table()
    table.add("full", [0, 1], nothing)
    assert table.by_prompt("full", "correct_kind") is None


# Training stage of the evaluator


def test_single_captions_name_one_value_each():
    rng = np.random.default_rng(0)
    for name, values in ATTRIBUTES.items():
        captions = single_captions(name, rng)
        assert len(set(captions)) == len(values)
    assert single_captions("object", rng)[0].split()[-1] == ATTRIBUTES["object"][0].split()[-1]


def test_captions_fit_the_scenes_that_show_what_they_say(batch):
    scenes, said = batch.scenes, batch.said
    shown = dict(zip(ATTRIBUTES, values_of(scenes).T.tolist(), strict=True))
    assert [ATTRIBUTES["style"][i] for i in shown["style"]] == [scene.style for scene in scenes]
    assert [i < 0 for i in shown["second"]] == [s.second is None for s in scenes]
    found = fits(values_of(scenes), values_of(said))
    assert found.diagonal().all() and 0.015 < found.float().mean() < 0.5
    for row, column in ((0, 1), (5, 9), (30, 2)):
        wanted = all(
            getattr(said[column], name) in (None, getattr(scenes[row], name)) for name in ATTRIBUTES
        )
        assert bool(found[row, column]) == wanted


def test_a_few_steps_lower_the_loss(tokenizer, batch):
    torch.manual_seed(0)
    stage = TrainEvaluator(StageConfig(pool=12), 0, tokenizer)
    optimizer = torch.optim.AdamW(stage.trained_parameters(), lr=1e-3)
    pool, rows = stage.prepare(0), torch.arange(12)
    losses = []
    for _ in range(6):
        loss = stage.loss(pool, rows, 0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 1
    with torch.no_grad():
        again = [float(stage.loss(pool, rows, 1)) for _ in range(2)]
    assert again[0] == again[1]
    assert stage.sheet().shape == (6 * 64, 10 * 64, 3)


def test_finish_writes_a_folder_that_loads_back(model, tokenizer, tmp_path: Path, batch):
    unused = train_tokenizer()  # as in a training that was stopped after its last step
    finish(model, unused, tmp_path, count=20)
    written = (tmp_path / "tokenizer.json").read_bytes()
    tokenize(tokenizer, ["a fox"])
    accuracies = finish(model, tokenizer, tmp_path, count=20)
    assert (tmp_path / "tokenizer.json").read_bytes() == written
    loaded = Evaluator.load(tmp_path)
    assert set(accuracies) == {*ATTRIBUTES, "all"} and loaded.accuracies == accuracies
    assert loaded.model.dtype == model.dtype == torch.float32
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < 12e6
    torch.testing.assert_close(
        loaded.image_features(batch.images[:4]),
        Evaluator(model, tokenizer).image_features(batch.images[:4]),
        atol=5e-3,
        rtol=0,
    )


def test_scores_of_resampled_pictures_are_those_of_the_pictures_themselves():
    """What is reused between draws (distances, kernels, who is inside) changes nothing."""
    real, made = features(40, 6, 1), features(12, 6, 2, 0.8)
    shared = SimpleNamespace(real=real, column="features", judge=SimpleNamespace(dimension=6))
    table = Table(repeats=2)
    table.add("redi", list(range(12)), {"features": made})
    target = fit_gaussian(real)
    plainly: dict[type[SetMetric], Callable[[np.ndarray], float]] = {
        FDScene: lambda rows: frechet_distance(fit_gaussian(rows, allow_few=True), target),
        KidScene: lambda rows: kernel_distance(rows, real),
        Precision: lambda rows: covered(rows, real, radii(real)).mean(),
        Recall: lambda rows: covered(real, rows, radii(rows)).mean(),
    }
    for kind, score in plainly.items():
        metric = kind(Config(data=DataConfig(num_queries=12)), {"evaluator": shared})
        expected = bootstrap_statistic(
            made.reshape(6, -1), lambda prompts, score=score: score(prompts.reshape(-1, 6))
        )
        found = metric.summarise(table, "redi")[metric.name]
        assert found.draws == pytest.approx(expected.draws, rel=1e-12, abs=1e-14)
        assert found.mean == pytest.approx(expected.mean, rel=1e-12, abs=1e-14)
        assert found.count == expected.count and len(set(found.draws)) > 3
    table.rows["redi"][3]["features"] = np.full(6, np.nan)
    with pytest.raises(ValueError, match="not finite"):
        metric.summarise(table, "redi")
