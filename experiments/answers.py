"""The answer of each experiment in one sentence, with numbers from the claims that it decides."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from experiments.judgement import BEST, CONFIRMED, PUBLISHED, Claim
from experiments.judges import BEATS, BEATS_ALL, BETTER_ESTIMATE, EQUAL, MORE, NOISES, OTHERS

CLIP = "CLIP score"


def one(found: Sequence[Claim], claim: str, setting: str, metric: str = "") -> Claim:
    """The only claim that starts with `claim`, in a setting that holds every word of `setting`."""
    words = setting.split("; ")
    (chosen,) = [
        c
        for c in found
        if c.claim.startswith(claim)
        and all(word in c.setting for word in words)
        and c.metric.startswith(metric)
    ]
    return chosen


def spread(claim: Claim, sign: float = 1.0, scale: float = 1.0) -> str:
    """A value with its interval, three significant digits."""
    numbers = [sign * scale * number for number in (claim.value, claim.low, claim.high)]
    value, low, high = (numbers[0], *sorted(numbers[1:]))
    return f"{value:.3g} [{low:.3g}, {high:.3g}]"


def lost(found: Sequence[Claim], where: str) -> str:
    """What ReDi loses at half of the calls, and by how much the same sampler is ahead."""
    best, published = (one(found, EQUAL, f"{where}; {which}", CLIP) for which in (BEST, PUBLISHED))
    behind = one(found, BEATS, f"{where}; {BEST}", CLIP)
    return (
        f"ReDi loses {spread(best, -1)} of CLIP score at its best and {spread(published, -1)} as "
        f"published, and is behind the same sampler by {spread(behind, -1)} at its best"
    )


def quality(found: Sequence[Claim]) -> str:
    told = lost(found, "dpm_solver, guidance 7.5; 4,096 trajectories")
    return f"No: with 10 of 20 calls {told}, where 0.5 is allowed."


def pndm(found: Sequence[Claim]) -> str:
    def claim(which: str, about: str) -> Claim:
        return one(found, about, f"pndm,; 4,096; key step 10; {which}", CLIP)

    best, published = (claim(which, EQUAL) for which in (BEST, PUBLISHED))
    lead, behind = (claim(which, BEATS) for which in (BEST, PUBLISHED))
    return (
        f"With 26 of 51 calls and key step 10 ReDi loses {spread(best, -1)} of CLIP score at its "
        f"best ({best.verdict}) and {spread(published, -1)} as published ({published.verdict}). "
        f"Its CLIP score less that of the same sampler with as many calls is {spread(lead)} at its "
        f"best and {spread(behind)} as published."
    )


def other_samplers(found: Sequence[Claim]) -> str:
    told = [
        f"with {title} {lost(found, f'{sampler}, guidance 7.5; 1,024 trajectories')}"
        for sampler, title in (("ddim", "DDIM"), ("dpm_solver_pp", "DPM-Solver++"))
    ]
    return f"At half of the calls, {told[0]}; {told[1]}."


def guidance(found: Sequence[Claim]) -> str:
    told = lost(found, "dpm_solver, guidance 1.5; 1,024 trajectories")
    return f"With 10 of 20 calls {told}."


def equal_calls(found: Sequence[Claim]) -> str:
    error = one(found, BEATS_ALL, "dpm_solver,; 10 calls", "latent error")
    score = one(found, BEATS_ALL, "dpm_solver,; 10 calls", CLIP)
    kept: dict[str, list[str]] = {}
    for claim in found:
        if claim.claim == OTHERS and claim.setting.startswith("dpm_solver,"):
            kept.setdefault(claim.setting.rsplit(", ", 1)[1], []).append(claim.verdict)
    names = [name for name, verdicts in kept.items() if set(verdicts) == {CONFIRMED}]
    told = ", ".join(f"`{name}`" for name in names) or "none of them"
    return (
        f"More, from the same trajectories: the best of them is ahead of ReDi at its best by "
        f"{spread(score, -1)} of CLIP score and {spread(error, -1)} of latent error. Full "
        f"sampling's quality at half of its calls is kept by {told}."
    )


def kb_size(found: Sequence[Claim]) -> str:
    ratio = one(found, MORE, f"64 to 4,096; {PUBLISHED}", "ratio")
    slope = one(found, MORE, f"64 to 4,096; {PUBLISHED}", "growth")
    return (
        f"Yes, slowly: with 64 times as many trajectories the published form keeps "
        f"{spread(ratio)} of its error, an exponent of {spread(slope)}."
    )


def key(found: Sequence[Claim]) -> str:
    claim = "latents are a better key than the prompt"
    published, best = (one(found, claim, which) for which in (PUBLISHED, BEST))
    return (
        f"With one neighbour by the latents, which have {spread(published)} of the error that the "
        f"prompt's embedding has; with 256 neighbours the key hardly matters ({spread(best)})."
    )


def noise(found: Sequence[Claim]) -> str:
    ratio = one(found, NOISES, "8 noises")
    return f"They serve worse: the error is {spread(ratio)} times that of one noise."


def skip(found: Sequence[Claim]) -> str:
    beyond = [one(found, "at most 10%", f"tolerance {t}") for t in ("0.15", "0.25")]
    saved = [one(found, "calibrated jumps save", f"tolerance {t}") for t in ("0.15", "0.25")]
    told = [f"{spread(claim, scale=100)}%" for claim in beyond]
    calls = [f"{100 * claim.value:.0f}%" for claim in saved]
    return (
        f"The promise of at most 10% holds ({told[0]} and {told[1]} of the samples at the two "
        f"tolerances), {calls[0]} and {calls[1]} of the calls are saved, and equal quality is not "
        "shown."
    )


def estimators(found: Sequence[Claim]) -> str:
    ratio = one(found, BETTER_ESTIMATE, "transport, 1 neighbours")
    return (
        f"The displacement of one neighbour, which has {spread(ratio)} of the published "
        "estimate's error."
    )


def stylization(found: Sequence[Claim]) -> str:
    published, best = (
        one(found, "zero-shot stylization: the style", which) for which in (PUBLISHED, BEST)
    )
    return (
        f"For the most part: the style score is {spread(published, -1)} below full sampling's as "
        f"published and {spread(best, -1)} at its best."
    )


ANSWERS: dict[str, Callable[[Sequence[Claim]], str]] = {
    answer.__name__: answer
    for answer in (
        quality,
        pndm,
        other_samplers,
        guidance,
        equal_calls,
        kb_size,
        key,
        noise,
        skip,
        estimators,
        stylization,
    )
}
