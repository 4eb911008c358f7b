"""Everything that is made from the committed results: `python -m experiments.pages`.

Writes claims.json, claims.md, a page with its figures for each experiment that was collected here,
and the parts of README.md between `<!-- made: NAME -->` and `<!-- end -->`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from experiments.answers import ANSWERS
from experiments.claims import ROOT, claims, summary, table
from experiments.judgement import Claim
from redi.report.markdown import markdown_grid, markdown_report
from redi.report.points import distinct
from redi.report.runs import COLLECTED, Run, load_runs
from redi.report.sections import report_sections
from redi.report.table import grid

PAGES = (
    ROOT.parent / "README.md",
    ROOT / "README.md",
    ROOT.parent / "docs" / "results.md",
)
_FIGURES = (
    "Quality against network calls",
    "Over the setting that varies",
    "Content kept, style taken",
)


@dataclass(frozen=True)
class Command:
    """A command and the settings that tell its points from those of the experiment's others."""

    text: str
    where: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Experiment:
    name: str
    question: str
    commands: tuple[Command, ...]
    #: the points that figures are of, by their settings
    drawn: Mapping[str, Any] = field(default_factory=dict)
    #: what a reader of the page should know
    note: str = ""


EXPERIMENTS = (
    Experiment(
        "quality",
        "Does ReDi keep full sampling's quality at half of the calls (DPM-Solver, 20 steps)?",
        (
            Command("redi experiment=quality", {"kb.size": 1024}),
            Command(
                "redi experiment=quality retrieval.skip_share=0.5 kb.size=4096 "
                "data.num_queries=1024 'baselines=[plain,jump,random]'",
                {"kb.size": 4096},
            ),
        ),
        {"kb.size": 1024},
    ),
    Experiment(
        "pndm",
        "The same with PNDM and 50 steps, and from which key step?",
        (
            Command(
                "redi experiment=pndm model.dtype=bfloat16 model.batch_size=32 kb.size=4096 "
                "data.num_queries=512 kb.key_step=10 'baselines=[plain,jump,random,prompt]'",
                {"kb.key_step": 10},
            ),
            Command(
                "redi experiment=pndm model.dtype=bfloat16 model.batch_size=32 kb.size=4096 "
                "kb.key_step=2,5,15 'baselines=[plain,jump]'",
                {"kb.key_step": (2, 5, 15)},
            ),
        ),
        note="One KB of 4,096 trajectories serves all key steps. FD-scene falls with the number of "
        "pictures: key step 10 has 512, the others 256. 1,792 of the trajectories were made by an "
        "earlier start of the first command, in 29 minutes that are not counted below.",
    ),
    Experiment(
        "other_samplers",
        "The same with DDIM and 50 steps, and with DPM-Solver++ and 20?",
        tuple(
            Command(
                f"redi experiment=other_samplers sampler={name} model.dtype=bfloat16 "
                "model.batch_size=32 'baselines=[plain,jump,random]'",
                {"sampler.name": name},
            )
            for name in ("ddim", "dpm_solver_pp")
        ),
    ),
    Experiment(
        "guidance",
        "The same with DPM-Solver at guidance 1.5?",
        (
            Command(
                "redi experiment=guidance sampler=dpm_solver sampling.guidance_scale=1.5 "
                "model.dtype=bfloat16 model.batch_size=32 'baselines=[plain,jump,random]'"
            ),
        ),
        note="The verdicts of other settings come from [printed tables](printed).",
    ),
    Experiment(
        "equal_calls",
        "With as many calls as ReDi at its best, what do other samplers reach?",
        (
            Command(
                "redi experiment=equal_calls model.dtype=bfloat16", {"sampler.name": "dpm_solver"}
            ),
            Command(
                "redi experiment=pndm model.dtype=bfloat16 model.batch_size=32 kb.size=4096 "
                "data.num_queries=512 kb.key_step=10 retrieval=best 'baselines=[plain]' "
                "'+methods=[plain]' methods.plain.calls=26 methods.plain.solver=dpm_solver_pp",
                {"sampler.name": "pndm"},
            ),
        ),
        {"sampler.name": "dpm_solver"},
        "The first run was made by the same settings, each given on the command line: the "
        "configuration is newer than its revision, and leads to the same run (the same hash).",
    ),
    Experiment(
        "kb_size",
        "Do more trajectories lower the error?",
        (
            Command("redi experiment=kb_size", {"kb.size": (64, 256, 1024)}),
            Command("redi experiment=kb_size kb.size=4096 'baselines=[plain]'", {"kb.size": 4096}),
        ),
    ),
    Experiment("key", "What should a neighbour be searched by?", (Command("redi experiment=key"),)),
    Experiment(
        "estimators",
        "What should be taken over from the neighbours, and from how many?",
        (Command("redi experiment=estimators"),),
    ),
    Experiment(
        "noise",
        "Do as many trajectories serve as well when they are spread over several noises?",
        (
            Command(
                "redi experiment=noise noise.bank_size=1,8 kb.size=512 data.num_queries=64 "
                "model.batch_size=64 'baselines=[plain,jump]'"
            ),
        ),
    ),
    Experiment(
        "skip",
        "Does a calibrated distance jump only where it is safe, and what does it save?",
        (Command("redi experiment=skip kb.size=4096"),),
        note="A sample that does not jump is full sampling's own: its PSNR counts as 100 dB, so "
        "compare latent errors and not mean PSNRs.",
    ),
    Experiment(
        "stylization",
        "Is a style taken that no trajectory of the KB has?",
        (
            Command(
                "redi experiment=stylization retrieval=best,paper retrieval.value_step=10 "
                "data.num_queries=96 kb.size=256 model.batch_size=64 "
                "'baselines=[plain,jump,switch,content]'"
            ),
        ),
    ),
)


def main() -> None:
    found = claims()
    text = json.dumps([asdict(claim) for claim in found], indent=1)
    (ROOT / "claims.json").write_text(text + "\n", "utf-8")
    (ROOT / "claims.md").write_text(table(found), "utf-8")
    for experiment, runs in collected():
        folder = ROOT / experiment.name
        (folder / "README.md").write_text(page(experiment, runs, found, folder), "utf-8")
    made = blocks(found)
    for path in PAGES:
        path.write_text(filled(path.read_text("utf-8"), made), "utf-8")
    print(f"{len(found)} judgements of {len({c.claim for c in found})} claims, {len(made)} blocks")


def collected() -> Iterator[tuple[Experiment, list[Run]]]:
    """The experiments whose results are here."""
    for experiment in EXPERIMENTS:
        if (ROOT / experiment.name / COLLECTED).is_file():
            yield experiment, load_runs(ROOT / experiment.name)


def page(experiment: Experiment, runs: Sequence[Run], found: Sequence[Claim], folder: Path) -> str:
    """The page of an experiment; its figures are written to `folder`."""
    mine = [claim for claim in found if claim.experiment == experiment.name]
    drawn = [run for run in runs if matches(run, experiment.drawn)]
    figures = [s for s in report_sections(drawn) if s.title in _FIGURES]
    sheet = ["![Pictures](sheet.png)\n"] if any(run.sheet for run in runs) else []
    return "\n".join(
        [
            f"# {experiment.name}\n",
            f"*{experiment.question}*\n",
            f"{ANSWERS[experiment.name](found)}\n",
            *([f"{experiment.note}\n"] if experiment.note else []),
            markdown_report("", figures, folder),
            *sheet,
            *_points(experiment, runs),
            "## Verdicts\n",
            table(mine),
            "## How it was made\n",
            *_table("command | points | minutes | threads | revision", made(experiment, runs)),
            "",
        ]
    )


def _points(experiment: Experiment, runs: Sequence[Run]) -> Iterator[str]:
    """Every point of each command."""
    for command in experiment.commands:
        its = [run for run in runs if matches(run, command.where)]
        counts = sorted({f"{point.count:,}" for run in its for point in run.points})
        yield f"## {' or '.join(counts)} pictures, `{command.text}`\n"
        yield markdown_grid(grid(distinct([point for run in its for point in run.points]))) + "\n"


def made(experiment: Experiment, runs: Sequence[Run]) -> Iterator[tuple[str, ...]]:
    """Command, points, minutes, threads and revision of each of its commands."""
    left = list(runs)
    for command in experiment.commands:
        its = [run for run in left if matches(run, command.where)]
        left = [run for run in left if run not in its]
        seconds = sum(run.provenance["seconds"] for run in its)
        threads = {str(run.provenance["machine"]["threads"]) for run in its}
        yield (
            f"`{command.text}`",
            str(len(its)),
            f"{seconds / 60:.0f}",
            ", ".join(sorted(threads)),
            ", ".join(sorted({_revision(run) for run in its})),
        )
    if left:
        raise SystemExit(f"{experiment.name}: no command of EXPERIMENTS made {left[0].name}")


def matches(run: Run, where: Mapping[str, Any]) -> bool:
    """Whether a run has all of these settings; a tuple lists alternatives."""
    for name, wanted in where.items():
        value: Any = run.config
        for part in name.split("."):
            value = value[part]
        if value not in (wanted if isinstance(wanted, tuple) else (wanted,)):
            return False
    return True


def _revision(run: Run) -> str:
    git = run.provenance["git"]
    return git["revision"][:7] + (" with uncommitted changes" if git["changed"] else "")


def blocks(found: Sequence[Claim]) -> dict[str, str]:
    """The parts of pages that are made."""
    rows, told = [], []
    for experiment, runs in collected():
        parts = list(made(experiment, runs))
        link = f"[`{experiment.name}`]({experiment.name})"
        minutes = sum(int(part[2]) for part in parts)
        revisions = ", ".join(dict.fromkeys(part[4] for part in parts))
        answer = ANSWERS[experiment.name](found)
        rows.append((link, f"{experiment.question} {answer}", str(minutes), revisions))
        told.append((f"`{experiment.name}`", experiment.question, answer))
    return {
        "claims": summary(found),
        "answers": "\n".join(_table("experiment | question | answer", told)) + "\n",
        "index": "\n".join(_table("experiment | question and answer | minutes | revision", rows))
        + "\n",
    }


def _table(headings: str, rows: Iterator[tuple[str, ...]] | Sequence[tuple[str, ...]]) -> list[str]:
    right = {"points", "minutes", "threads"}
    names = headings.split(" | ")
    rule = ["---:" if name in right else "---" for name in names]
    return [f"| {' | '.join(cells)} |" for cells in (names, rule, *rows)]


def filled(text: str, made: Mapping[str, str]) -> str:
    """A page with its made parts."""

    def part(found: re.Match[str]) -> str:
        return f"<!-- made: {found[1]} -->\n\n{made[found[1]]}\n<!-- end -->"

    return re.sub(r"<!-- made: (\w+) -->\n.*?<!-- end -->", part, text, flags=re.S)


if __name__ == "__main__":
    main()
