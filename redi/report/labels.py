"""What methods and metrics are called in every table and plot, and how numbers are written."""

from __future__ import annotations

import math
from dataclasses import dataclass

DASH = "–"  # a metric that was not computed

METHODS = {
    "full": "full sampling",
    "plain": "same sampler, same calls",
    "redi": "ReDi",
    "corrected": "retrieval-corrected",
    "jump": "one-step jump, no retrieval",
    "random": "random neighbour",
    "prompt": "prompt-embedding neighbour",
    "both": "neighbour by latents and prompt",
    "neighbour": "neighbour's own image",
    "switch": "full run, style named late",
    "content": "full run without the style",
    "other_noise": "floor: full run, other noise",
    "other_precision": "floor: full run, other precision",
}
#: what two runs of equal worth differ by
FLOORS = ("other_noise", "other_precision")
#: shown for comparison, no way to spend the calls: never best, in no Pareto front
REFERENCES = ("switch", "content", *FLOORS)

EXPLAINED = {
    "full sampling": "the sampler with all its steps; what every shortcut is held against",
    "ReDi": "sample to the key step k, look up the nearest finished trajectory in a knowledge base "
    "(KB), take its latent at the later value step v, and sample on from there",
    "same sampler, same calls": "no retrieval, only fewer and longer steps: the row to beat",
    "network calls": "how often the network ran per picture; guidance counts once",
    "PSNR to full, SSIM, latent error": "how close a picture is to the full run of the same prompt "
    "and noise",
    "CLIP score, fidelity": "whether the picture shows what its prompt asks for, as judged by a "
    "small CLIP that was trained apart from the generator",
    "FD-scene": "Fréchet distance of that CLIP's features to real scenes; not comparable with FID",
    "floor": "the full run again, from another noise or in another precision: what the same score "
    "says about two runs of equal worth",
    "±": "half of a 95% bootstrap interval over prompts",
    "Pareto front": "the points that no other beats in calls and quality at once",
}


@dataclass(frozen=True)
class Metric:
    """A quality: its key in a point's `values`, its title and unit, and which way is better."""

    key: str
    title: str
    higher_is_better: bool = True
    unit: str = ""

    @property
    def heading(self) -> str:
        return f"{self.title} ({self.unit})" if self.unit else self.title


PSNR = Metric("psnr", "PSNR to full", unit="dB")
SSIM = Metric("ssim", "SSIM")
LATENT_ERROR = Metric("latent_error", "latent error", higher_is_better=False)
CLIP_SCORE = Metric("clip_score", "CLIP score")
FD_SCENE = Metric("fd_scene", "FD-scene", higher_is_better=False)
FIDELITY = tuple(
    Metric(f"prompt_fidelity.{attribute}", f"{attribute} fidelity")
    for attribute in ("object", "background", "style", "size", "place")
)
OBJECT_FIDELITY = FIDELITY[0]
DIVERSITY = Metric("diversity", "diversity")
CONTENT = Metric("content_score", "content score")
STYLE = Metric("style_score", "style score")
LPIPS = Metric("lpips", "LPIPS to full", higher_is_better=False)
OPENAI_CLIP = Metric("openai_clip_score", "CLIP score (OpenAI)")
FID = Metric("fid", "FID", higher_is_better=False)
KID = Metric("kid", "KID", higher_is_better=False)
CMMD = Metric("cmmd", "CMMD", higher_is_better=False)
CONVERGED = Metric("latent_error_converged", "latent error to converged", higher_is_better=False)
#: Shown where a point has them.
EXTRA = (CONVERGED, DIVERSITY, CONTENT, STYLE, LPIPS, OPENAI_CLIP, FID, KID, CMMD)
#: One metric for each question: like the full run, as its prompt asks, like real pictures.
HEADLINE = (PSNR, CLIP_SCORE, FD_SCENE, OBJECT_FIDELITY)


def significant(value: float) -> str:
    """At least three significant digits, never in scientific notation: 412, 24.1, 0.0630."""
    return f"{value:.{_decimals(value)}f}"


def with_margin(mean: float, margin: float) -> str:
    """`24.1 ± 0.3`, with as many decimals (within reason) as the margin needs to show."""
    decimals = _decimals(mean)
    if margin > 0:
        decimals = max(decimals, min(decimals + 2, -math.floor(math.log10(margin))))
    return f"{mean:.{decimals}f} ± {margin:.{decimals}f}"


def calls(nfe: float) -> str:
    """Network calls per image: whole where they are, else to one decimal."""
    return f"{round(nfe, 1):g}"


def _decimals(value: float) -> int:
    return 0 if value == 0 else max(0, 2 - math.floor(math.log10(abs(value))))
