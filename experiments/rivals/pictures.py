"""What few-step samplers show in pictures, each beside full sampling of the same noises."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from experiments.judgement import CONFIRMED, gain, judged
from experiments.rivals.points import budgeted, title
from redi.metrics.catalogue import qualities
from redi.report.points import Point
from redi.report.runs import Run

#: metric, its heading, digits
_COLUMNS = (
    ("clip_score", "CLIP score", 1),
    ("prompt_fidelity.all", "everything said", 3),
    ("fd_scene", "FD-scene", 3),
)


_INTRODUCTION = """# Pictures of few-step samplers

In brackets: the gain over full sampling on the same prompts and noises, with its paired 95%
interval. Bold: no loss, since the interval stays within the margin (0.5 of CLIP score, 0.02 of
everything said, 5% of FD-scene). The latent error is to full sampling.
"""


def picture_tables(runs: Sequence[Run]) -> str:
    """A table for each run that has pictures, methods by calls and then by their CLIP score."""
    return "\n".join([_INTRODUCTION, *(line for run in runs for line in _lines(run))])


def _lines(run: Run) -> Iterator[str]:
    full = next(point for point in run.points if point.method == "full")
    scale = run.config["sampling"]["guidance_scale"]
    yield f"## {full.count:,} pictures, guidance {scale:g}\n"
    names = [heading for _, heading, _ in _COLUMNS]
    yield "| calls | method | " + " | ".join(names) + " | latent error |"
    yield "| ---: | --- |" + " ---: |" * (len(names) + 1)
    ranked = sorted(budgeted(run), key=lambda p: (round(p.calls), -p.values["clip_score"].mean))
    for point in [full, *ranked]:
        cells = [_cell(run, point, full, name, digits) for name, _, digits in _COLUMNS]
        told = "full sampling" if point is full else title(point)
        error = "–" if point is full else f"{point.values['latent_error'].mean:.3f}"
        yield f"| {point.calls:g} | {told} | " + " | ".join(cells) + f" | {error} |"
    yield ""


def _cell(run: Run, point: Point, full: Point, name: str, digits: int) -> str:
    """A metric and its paired gain over full sampling; bold where that is no loss."""
    told = f"{point.values[name].mean:.{digits}f}"
    found = None if point is full else gain(run, point, full, qualities()[name])
    if found is None:
        return told
    mean, low, high, margin = found
    if judged(low, high, -margin) == CONFIRMED:
        told = f"**{told}**"
    return f"{told} ({mean:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}])"
