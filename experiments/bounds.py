"""Judges of the paper's bound, from the theory study on the embedded model (theory/emoji)."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from scipy import stats

from experiments.judgement import CONFIRMED, PUBLISHED, REFUTED, Claim, judged
from redi.theory.losses import LOSS_TITLES

EXPERIMENT = "theory/emoji"
PATH = Path(__file__).resolve().parent / EXPERIMENT / "results.json"
WITHIN = "the error stays within its certified bound"
FORETOLD = "a bound that is made before the run tells the error"
LOSSES = "a smaller distance to the neighbour means a smaller loss of the picture"


def bounds() -> Iterator[Claim]:
    """All of them; correlations have Fisher's interval with Fieller's factor for ranks."""
    study = json.loads(PATH.read_text("utf-8"))["theory"]
    setting, kb, queries = study["config"], study["entries"], study["queries"]
    late = str(setting["value_steps"][-1])
    for sampler, found in study["certificate"].items():
        steps = f"step {setting['key_step']} to {late} of {setting['steps']}"
        told = f"{sampler}, {steps}, {PUBLISHED}"
        beyond = stats.binomtest(found["violations"], found["pairs"]).proportion_ci(method="exact")
        share = found["violations"] / found["pairs"]
        jumps = sum(found["jump_violations"].values())
        verdict = REFUTED if found["violations"] or jumps else CONFIRMED
        numbers = "share of pairs beyond it", share, float(beyond.low), float(beyond.high)
        yield Claim(WITHIN, told, verdict, *numbers, kb, queries, EXPERIMENT)
        here = study["plug_in"][sampler][late]
        count = here["bounds"][0]["final"]["cases"]
        yield _ranked(FORETOLD, told, here["correlation"]["plug_in_lipschitz"], count, kb)
        for name, rows in here["picture_correlation"].items():
            metric = f"rank correlation with the loss of {LOSS_TITLES[name]}"
            yield _ranked(LOSSES, told, rows["key_distance"], count, kb, metric)


def _ranked(
    claim: str,
    setting: str,
    found: Mapping[str, Any],
    count: int,
    kb: int,
    metric: str = "rank correlation",
) -> Claim:
    value = found["spearman"]
    width = 1.96 * math.sqrt(1.06 / (count - 3))
    low, high = (math.tanh(math.atanh(value) + sign * width) for sign in (-1, 1))
    return Claim(claim, setting, judged(low, high), metric, value, low, high, kb, count, EXPERIMENT)
