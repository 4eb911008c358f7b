"""The one list of sections of a report; `html` and `markdown` write it down."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from redi.metrics.base import Quality
from redi.report.blocks import Block, Facts, Grid, Lines, Plot, Section, Sheets, Terms, Text
from redi.report.budgets import budgets_blocks
from redi.report.claim import claims, claims_grid, margins, sentences
from redi.report.curves import curves_figure, curves_keys, measured, variation
from redi.report.labels import DASH, EXPLAINED
from redi.report.pareto import headline, pareto_figure, pareto_keys, shown_samplers
from redi.report.points import Point, distinct
from redi.report.runs import Run
from redi.report.styles import has_styles, styles_figure
from redi.report.table import NOTE, grid, notes
from redi.report.verdict import verdicts

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_FEW = 3  # sentences that need no folding
_SHORT = 12  # characters of a hash
_COLUMNS = {
    "finished": "finished",
    "seconds": "seconds",
    "config_hash": "configuration",
    "git.revision": "revision",
    "model_hash": "model",
    "kb_hash": "knowledge base",
    "machine.processor": "processor",
    "machine.threads": "threads",
}
_CLAIM = (
    "The smallest share of full sampling's network calls at which a method is not inferior to it: "
    "the whole 95% interval of its paired loss stays within the margin ({}). In brackets the "
    "spread of that share over resampled prompts; 1.00 means that no smaller share was enough."
)


def report_sections(runs: Sequence[Run]) -> list[Section]:
    """Everything that is told about runs; sections without content are left out."""
    told = [line for run in runs for line in verdicts(run)]
    found = [
        Section("", [Text(_origin(runs)), Terms(EXPLAINED, "What the words mean")]),
        Section("Full quality at what share of the calls?", _claim(runs)),
        Section("Quality against network calls", _fronts(runs)),
        Section("At equal calls", budgets_blocks(runs)),
        Section("Over the setting that varies", _curves(runs)),
        Section("Content kept, style taken", _styles(runs)),
        Section("All points", [Text(NOTE), *tables(runs)]),
        Section("In words", [Lines(told, _folded(told))] if told else []),
        Section("Pictures", _sheets(runs)),
        Section("Provenance", [_overview(runs), *(_facts(run) for run in runs)]),
    ]
    return [section for section in found if section.blocks]


def run_sections(run: Run) -> list[Section]:
    """The table of one run, what real pictures score, and the verdicts."""
    return [Section("", [grid(run.points), *map(Text, notes(run))])]


def tables(runs: Sequence[Run]) -> list[Grid]:
    """A table per sampler of full runs, with all that stands beside them.

    Points that differ in nothing but their timing stand once.
    """
    by_sampler: dict[str, list[Point]] = defaultdict(list)
    for run in runs:
        full = run.first("full")
        for point in run.points:
            by_sampler[point.sampler if full is None else full.sampler].append(point)
    found = []
    for name, points in sorted(by_sampler.items()):
        its = grid(distinct(points))
        found.append(Grid(its.headings, its.left, its.rows, name))
    return found


def _claim(runs: Sequence[Run]) -> list[Block]:
    found = claims(runs)
    if not found:
        return []
    told = sentences(found)
    return [Text(_CLAIM.format(margins())), claims_grid(found), Lines(told, _folded(told))]


def _folded(lines: Sequence[str]) -> str:
    return "" if len(lines) <= _FEW else f"{len(lines)} points, a sentence each"


def _fronts(runs: Sequence[Run]) -> list[Block]:
    metrics, samplers = headline(runs), shown_samplers(runs)
    if not metrics:
        return []

    def panels() -> Mapping[str, Figure]:
        return {
            f"{m.heading} {name}".strip(): pareto_figure(runs, [m], [sampler], key=False)
            for sampler, name in zip(samplers, samplers if len(samplers) > 1 else [""], strict=True)
            for m in metrics
        }

    keys = pareto_keys(runs, samplers)
    return [Plot("pareto", lambda: pareto_figure(runs, metrics, samplers), panels, keys)]


def _curves(runs: Sequence[Run]) -> list[Block]:
    varied, metrics = variation(runs), measured(runs)
    if varied is None or not metrics:
        return []

    def figure(metrics: Sequence[Quality], key: bool) -> Figure:
        return curves_figure(runs, varied, metrics, key)

    keys = curves_keys(runs, varied)
    return [
        Plot(
            "curves",
            lambda: figure(metrics, True),
            lambda: {m.heading: figure([m], False) for m in metrics},
            keys,
            dpi=110,
        )
    ]


def _styles(runs: Sequence[Run]) -> list[Block]:
    return [Plot("styles", lambda: styles_figure(runs))] if has_styles(runs) else []


def _sheets(runs: Sequence[Run]) -> list[Block]:
    found = [(run.name, run.sheet) for run in runs if run.sheet is not None]
    return [Sheets(found)] if found else []


def _origin(runs: Sequence[Run]) -> str:
    """How many runs, of which revision, finished when, on how many pictures."""
    facts = [flat(run.provenance) for run in runs]
    text = f"{len(runs)} finished run{'s' if len(runs) > 1 else ''}"
    counts = sorted({point.count for run in runs for point in run.points})
    text += f", {' or '.join(map(str, counts))} pictures per method"
    revisions = sorted({f["git.revision"][:_SHORT] for f in facts if f.get("git.revision")})
    if revisions:
        text += f", made by redi at revision {' and '.join(revisions)}"
        if any(f.get("git.changed") == "True" for f in facts):
            text += " with uncommitted changes"
    dates = sorted({f["finished"][:10] for f in facts if "finished" in f})
    if dates:
        text += f", finished {dates[0]}" + f" to {dates[-1]}" * (len(dates) > 1)
    return text + "."


def _overview(runs: Sequence[Run]) -> Grid:
    facts = {run.name: flat(run.provenance) for run in runs}
    names = [name for name in _COLUMNS if any(name in its for its in facts.values())]
    return Grid(
        ["run", *(_COLUMNS[name] for name in names)],
        1,
        [
            [[(text, False)] for text in (run, *(_brief(its, name) for name in names))]
            for run, its in facts.items()
        ],
    )


def _brief(facts: Mapping[str, str], name: str) -> str:
    value = facts.get(name, DASH)
    return value[:_SHORT] if name.endswith(("hash", "revision")) else value


def _facts(run: Run) -> Facts:
    return Facts(run.name, flat(run.provenance), run.config)


def flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested facts with dotted names."""
    found: dict[str, str] = {}
    for key, item in value.items():
        if isinstance(item, Mapping):
            found |= flat(item, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = str(item)
    return found
