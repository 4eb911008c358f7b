"""What methods are called in every table and plot, and how numbers are written."""

from __future__ import annotations

import math

DASH = "–"  # a metric that was not computed

#: methods with a name and a place of their own; others go by their own name, after these
METHODS = {
    "full": "full sampling",
    "plain": "same sampler, same calls",
    "redi": "ReDi",
    "corrected": "retrieval-corrected",
    "jump": "one-step jump, no retrieval",
    "random": "random neighbour",
    "prompt": "prompt-embedding neighbour",
    "both": "neighbour by latents and prompt",
    "clean": "neighbour by predicted clean latents",
    "coarse": "neighbour by low frequencies",
    "neighbour": "neighbour's own image",
    "switch": "full run, style named late",
    "content": "full run without the style",
    "other_noise": "floor: full run, other noise",
    "other_precision": "floor: full run, other precision",
    "olss": "OLSS",
    "dode": "D-ODE",
    "pas": "PAS",
    "dc_solver": "DC-Solver",
    "dpm_solver_v3": "DPM-Solver-v3",
    "span": "span solver, trained end to end",
}
#: ReDi with one part exchanged: what shows which part matters
CONTROLS = ("jump", "random", "prompt", "both", "clean", "coarse", "neighbour")
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
    "paired difference": "of two rows over the same prompts, noises of a prompt together; better "
    "and worse mean that its 95% interval excludes zero",
    "Pareto front": "the points that no other beats in calls and quality at once",
}


def method_label(method: str) -> str:
    """What a method is called."""
    return METHODS.get(method) or method.replace("_", " ")


def rank(method: str) -> tuple[int, str]:
    """Where a method stands in tables and keys."""
    known = list(METHODS)
    return (known.index(method) if method in known else len(known), method)


def is_rival(method: str) -> bool:
    """Whether a method is a way of its own to spend calls: neither plain nor a control."""
    return method not in ("full", "plain", *CONTROLS, *REFERENCES)


def significant(value: float) -> str:
    """At least three significant digits, never in scientific notation: 412, 24.1, 0.0630."""
    return f"{value:.{_decimals(value)}f}"


def with_margin(mean: float, margin: float) -> str:
    """`24.1 ± 0.3`, with as many decimals (within reason) as the margin needs to show."""
    decimals = _decimals(mean)
    if margin > 0:
        decimals = max(decimals, min(decimals + 2, -math.floor(math.log10(margin))))
    return f"{mean:.{decimals}f} ± {margin:.{decimals}f}"


def calls(number: float) -> str:
    """Network calls per image: whole where they are, else to one decimal."""
    return f"{round(number, 1):g}"


def _decimals(value: float) -> int:
    return 0 if value == 0 else max(0, 2 - math.floor(math.log10(abs(value))))
