"""Every claim of the paper with a verdict.

`python -m experiments.pages` writes claims.json and claims.md from the experiments' results. A
claim about equal quality is one of non-inferiority: the paired 95% interval of the loss against
full sampling, over prompts, has to stay within a margin that was stated before (0.5 of CLIP score,
2 points of fidelity in everything said, 5% of full sampling's FD-scene). It is refuted where the
whole interval is beyond the margin, and undecided in between. A claim that one thing is better
than another is confirmed or refuted where the interval of the paired difference excludes zero.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from experiments.bounds import bounds
from experiments.judgement import (
    BEST,
    CONFIRMED,
    PARTLY,
    PUBLISHED,
    REFUTED,
    UNDECIDED,
    Claim,
    judged,
    together,
)
from experiments.judges import (
    BEATS,
    best_rival,
    chance,
    distance_tells,
    keys,
    more_noises,
    more_trajectories,
    neighbours,
    others_keep,
    safe_jumps,
    smallest_share,
    stylization,
    twice_as_fast,
    unsaid,
)
from experiments.printed_claims import printed
from redi.report.runs import COLLECTED, Run, load_runs

ROOT = Path(__file__).resolve().parent
_ORDER = (CONFIRMED, PARTLY, UNDECIDED, REFUTED)

PARTS: tuple[tuple[str, Callable[[Sequence[Run]], Iterator[Claim]]], ...] = (
    ("quality", twice_as_fast),
    ("other_samplers", twice_as_fast),
    ("guidance", twice_as_fast),
    ("pndm", twice_as_fast),
    ("equal_calls", best_rival),
    ("equal_calls", others_keep),
    ("quality", smallest_share),
    ("kb_size", more_trajectories),
    ("quality", more_trajectories),
    ("key", keys),
    ("quality", chance),
    ("pndm", chance),
    ("other_samplers", chance),
    ("quality", distance_tells),
    ("pndm", distance_tells),
    ("quality", unsaid),
    ("estimators", neighbours),
    ("noise", more_noises),
    ("skip", safe_jumps),
    ("stylization", stylization),
)


def from_print(measured: Sequence[Claim]) -> Iterator[Claim]:
    """What is left of runs whose files are lost, unless it was measured again."""
    for one in printed():
        sampler, scale, which = one.setting.split(", ")
        again = (c.setting for c in measured if c.claim == BEATS)
        if any(s.startswith(f"{sampler}, {scale}, ") and s.endswith(which) for s in again):
            continue
        low, high = one.gain - one.margin, one.gain + one.margin
        yield Claim(
            BEATS,
            one.setting,
            judged(low, high),
            one.metric,
            one.gain,
            low,
            high,
            one.kb_size,
            one.pictures,
            "guidance",
        )


def claims() -> list[Claim]:
    """All of them, from the experiments that are there."""
    found: list[Claim] = []
    for name, judge in PARTS:
        if (ROOT / name / COLLECTED).is_file():
            found += judge(load_runs(ROOT / name))
    return [*from_print(found), *found, *bounds()]


def table(found: Sequence[Claim]) -> str:
    """A row for each claim and setting; each metric with its interval and verdict."""
    lines = ["| claim | setting | verdict | evidence |", "| --- | --- | --- | --- |"]
    groups: dict[tuple[str, str], list[Claim]] = {}
    for claim in found:
        groups.setdefault((claim.claim, claim.setting), []).append(claim)
    for (claim, setting), rows in groups.items():
        told = "; ".join(f"{r.metric} {r.value:.3g} [{r.low:.3g}, {r.high:.3g}]" for r in rows)
        verdict = together([r.verdict for r in rows])
        lines.append(f"| {claim} | {setting} | {verdict} | {told} |")
    return "\n".join(lines) + "\n"


def summary(found: Sequence[Claim]) -> str:
    """A row for each claim: verdicts over all settings, for ReDi as published and at its best."""
    lines = ["| claim | as published | at its best | pictures |", "| --- | --- | --- | ---: |"]
    for claim in dict.fromkeys(c.claim for c in found):
        rows = [c for c in found if c.claim == claim]
        cells = []
        for which in (PUBLISHED, BEST):
            groups: dict[str, list[str]] = {}
            for one in rows:
                if one.setting.endswith(which) or f"{which}," in one.setting:
                    groups.setdefault(one.setting, []).append(one.verdict)
            verdicts = [together(group) for group in groups.values()]
            counts = [f"{verdicts.count(v)} {v}" for v in _ORDER if v in verdicts]
            cells.append(", ".join(counts) or "–")
        if cells == ["–", "–"]:
            settings = dict.fromkeys(c.setting for c in rows)
            verdicts = [together([c.verdict for c in rows if c.setting == s]) for s in settings]
            cells[1] = ", ".join(f"{verdicts.count(v)} {v}" for v in _ORDER if v in verdicts)
        most = max(c.pictures for c in rows)
        lines.append(f"| {claim} | {cells[0]} | {cells[1]} | {most:,} |")
    return "\n".join(lines) + "\n"
