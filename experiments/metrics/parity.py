"""Our metrics beside the packages that define them, on the same pictures with the same extractor.

    python experiments/metrics/parity.py

writes `parity.md`; `tests/test_pretrained.py` holds every row to a relative difference of 1e-6.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from cleanfid import fid as cleanfid
from PIL import Image
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance
from transformers import CLIPImageProcessor

from redi.data.pixels import to_tensor
from redi.embedded.captions import captioned, sample
from redi.files import write_durably
from redi.metrics.evaluator import EMBEDDED_EVALUATOR, Evaluator, tokenize
from redi.metrics.frechet import fit_gaussian, frechet_distance, kernel_distance
from redi.metrics.images import byte_features, clean_features
from redi.metrics.openai_clip import ClipScorer

PAGE = Path(__file__).with_name("parity.md")
COUNT = 24


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


@dataclass(frozen=True)
class Row:
    """One number by us and by the package's own entry point."""

    metric: str
    entry: str
    ours: float
    theirs: float

    @property
    def difference(self) -> float:
        return abs(self.ours - self.theirs) / abs(self.theirs)


def rows() -> list[Row]:
    """All comparisons, on rendered held-out scenes and on pictures of an odd size."""
    with tempfile.TemporaryDirectory() as root:
        scenes = [scene.render(rng) for scene, rng in (sample("query", i, 3) for i in range(COUNT))]
        noise = np.random.default_rng(0).integers(0, 200, (COUNT, 9, 7, 3), dtype=np.uint8)
        folders = [_folder(Path(root, name), its) for name, its in (("a", scenes), ("b", noise))]
        return [*_cleanfid(folders), *_torchmetrics(folders), *_clip(Path(root, "clip"))]


def _folder(folder: Path, pictures: list[np.ndarray] | np.ndarray) -> Path:
    folder.mkdir()
    for i, picture in enumerate(pictures):
        Image.fromarray(picture).save(folder / f"{i:02d}.png")
    return folder


def _read(folder: Path) -> list[np.ndarray]:
    return [np.array(Image.open(path)) for path in sorted(folder.glob("*.png"))]


def _distance(a: np.ndarray, b: np.ndarray) -> float:
    return frechet_distance(fit_gaussian(a), fit_gaussian(b))


def _cleanfid(folders: list[Path]) -> list[Row]:
    extractor = Extractor()
    ours = [clean_features(_read(folder), extractor) for folder in folders]
    a, b = map(str, folders)
    quiet = {"num_workers": 0, "device": torch.device("cpu"), "verbose": False}
    fid = cleanfid.compute_fid(a, b, mode="clean", custom_feat_extractor=extractor, **quiet)
    with mock.patch.object(cleanfid, "build_feature_extractor", lambda *_, **__: extractor):
        kid = cleanfid.compute_kid(a, b, mode="clean", **quiet)  # of all pictures, they are few
    return [
        Row("FID", "cleanfid.fid.compute_fid", _distance(*ours), fid),
        Row("KID", "cleanfid.fid.compute_kid", kernel_distance(*ours), kid),
    ]


def _torchmetrics(folders: list[Path]) -> list[Row]:
    extractor = Extractor()
    ours = [byte_features(_read(folder), extractor) for folder in folders]
    fid = FrechetInceptionDistance(feature=extractor)
    kid = KernelInceptionDistance(feature=extractor, subsets=1, subset_size=COUNT)
    for real, folder in zip((True, False), folders, strict=True):
        for picture in _read(folder):
            image = torch.from_numpy(picture).permute(2, 0, 1)[None]
            fid.update(image, real=real)
            kid.update(image, real=real)
    name = "torchmetrics.image"
    return [
        Row("FID", f"{name}.fid.FrechetInceptionDistance", _distance(*ours), float(fid.compute())),
        Row(
            "KID",
            f"{name}.kid.KernelInceptionDistance",
            kernel_distance(*ours),
            float(kid.compute()[0]),
        ),
    ]


@torch.no_grad()
def _clip(folder: Path) -> list[Row]:
    """Means over pictures; the direct computation is one call of the model on both inputs."""
    drawn = [captioned("query", i, 3) for i in range(COUNT)]
    pictures = [scene.render(rng) for scene, _, rng in drawn]
    captions = [said.caption(np.random.default_rng(i)) for i, (_, said, _) in enumerate(drawn)]

    evaluator = Evaluator.load(EMBEDDED_EVALUATOR)
    images = to_tensor(np.stack(pictures))
    tokens = tokenize(evaluator.tokenizer, captions)
    direct = evaluator.model(input_ids=tokens, pixel_values=images)
    ours = evaluator.clip_score(images, captions)
    found = [Row("CLIP score, embedded", "one forward pass", float(ours.mean()), _score(direct))]

    processor = CLIPImageProcessor(
        size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64}
    )
    for part in (evaluator.model, evaluator.tokenizer, processor):
        part.save_pretrained(folder)
    scorer, cut = ClipScorer.load(folder), [picture[:60] for picture in pictures]
    text = scorer.tokenizer(captions, padding=True, truncation=True, return_tensors="pt")
    direct = scorer.model(
        input_ids=text.input_ids,
        attention_mask=text.attention_mask,
        pixel_values=scorer.processor(images=cut, return_tensors="pt")["pixel_values"],
    )
    ours = scorer.score(scorer.image_features(cut), captions)
    name = "CLIP score, OpenAI's preprocessing"
    return [*found, Row(name, "one forward pass", float(ours.mean()), _score(direct))]


def _score(output: object) -> float:
    cosine = (output.image_embeds.double() * output.text_embeds.double()).sum(1)  # type: ignore[attr-defined]
    return float(100 * cosine.clamp(min=0).mean())


def page(found: list[Row]) -> str:
    """The comparisons as a Markdown table."""
    lines = [
        f"{COUNT} rendered scenes against {COUNT} pictures of noise, one injected extractor; made "
        "by `python experiments/metrics/parity.py`.",
        "",
        "| metric | their entry point | ours | theirs | relative difference |",
        "|---|---|---:|---:|---:|",
    ]
    lines += [
        f"| {r.metric} | `{r.entry}` | {r.ours:.10g} | {r.theirs:.10g} | {r.difference:.1e} |"
        for r in found
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    text = page(rows())
    write_durably(PAGE, lambda temporary: temporary.write_text(text))
    sys.stdout.write(text)
