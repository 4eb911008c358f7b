"""The files of a run: what was measured and made, and last its results, which finish it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf

from redi.config import Config
from redi.data.overlap import Overlap
from redi.data.pixels import to_pixels
from redi.files import write_durably, write_json
from redi.metrics.base import Fields
from redi.metrics.batch import is_unsaid
from redi.metrics.intervals import Estimate
from redi.report.examples import EXAMPLES, Example, write_examples
from redi.report.outputs import CONFIG
from redi.report.pictures import DRAWS, PER_IMAGE
from redi.report.points import COLUMNS, write_rows
from redi.report.runs import RESULTS, SCHEMA
from redi.verbs.evaluate import Evaluate
from redi.verbs.hooks import Measure
from redi.verbs.identity import short
from redi.verbs.provenance import git_revision, machine, versions

#: what a query's noise is to the KB, by policy
NOISES = {"shared": "shared", "bank": "bank", "per_prompt": "unseen"}


class Recorder:
    """Writes a run once all batches are evaluated; called on the first process."""

    def __init__(
        self,
        config: Config,
        folder: Path,
        started: float,
        measure: Measure,
        identity: dict[str, Any],
        overlap: Overlap,
    ) -> None:
        self.config, self.folder = config, folder
        self.started, self.measure = started, measure
        self.identity, self.overlap = identity, overlap

    def __call__(self, module: Evaluate) -> None:
        entries, folder = module.entries, self.folder
        fields = {entry: self.measure.summarise(module.table, entry) for entry in entries}
        rows = _picture_rows(module, entries)
        write_durably(folder / PER_IMAGE, lambda p: write_rows(rows, p))
        draws = _draw_rows(fields)
        if draws:
            write_durably(folder / DRAWS, lambda p: write_rows(draws, p))
        examples = _examples(module)
        if examples:
            write_durably(folder / EXAMPLES, lambda p: write_examples(examples, p))
        text = OmegaConf.to_yaml(self.config)
        write_durably(folder / CONFIG, lambda p: p.write_text(text))
        write_json(folder / RESULTS, self._results(module, entries, fields))

    def _results(
        self, module: Evaluate, entries: Mapping[str, dict[str, Any]], fields: Mapping[str, Fields]
    ) -> dict[str, Any]:
        config, kb = self.config, module.kb
        common = {
            "noise": NOISES[config.noise.policy],
            "guidance_scale": config.sampling.guidance_scale,
            "seed": config.seed,
        }
        points, settings = [], dict.fromkeys(n for n in COLUMNS if n not in ("experiment", "run"))
        for entry, told in entries.items():
            settings |= dict.fromkeys(name for name in told if name != "calls")
            errors = module.table.column(entry, "latent_error")
            promised = {} if errors is None else module.methods[entry].method.verdict(errors)
            measured = flat(fields[entry])
            point = {"entry": entry, **told, **common, "count": len(module.table.rows[entry])}
            points.append(point | measured | promised)
        return {
            "schema": SCHEMA,
            "provenance": {
                "config_hash": short(self.identity),
                "identity": self.identity,
                "overlap": asdict(self.overlap),
                "git": git_revision(),
                "versions": versions(),
                "machine": machine(),
                "model_hash": kb.manifest.identity["model_hash"],
                "kb_hash": kb.content_hash,
                "kb_entries": len(kb),
                "kb_bytes_per_entry": kb.disk_bytes / sum(journal.rows for journal in kb.journals),
                "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                "seconds": round(time.time() - self.started, 1),
                "reference_batches": {
                    "computed": module.reference.computed,
                    "read": module.reference.read,
                },
            },
            "config": asdict(config),
            "reference": {"evaluator_accuracy": self.measure.accuracies},
            #: columns of a point that describe it; all others were measured
            "settings": list(settings),
            "points": points,
        }


def flat(fields: Fields) -> dict[str, float]:
    """Numbers by name, intervals as `<name>_low` and `<name>_high`."""
    found: dict[str, float] = {}
    for name, value in fields.items():
        if isinstance(value, Estimate):
            found |= {name: value.mean, f"{name}_low": value.low, f"{name}_high": value.high}
        else:
            found[name] = value
    return found


def _picture_rows(module: Evaluate, entries: Mapping[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """A row per picture: the entry's own columns, the query, and what was measured."""
    rows, repeats = [], module.table.repeats
    for entry, told in entries.items():
        for index, cells in sorted(module.table.rows[entry].items()):
            scalars = {
                name: value
                for name, value in cells.items()
                if np.ndim(value) == 0 and not is_unsaid(name, value)
            }
            row = {
                "entry": entry,
                **told,
                "query": index // repeats,
                "noise": index % repeats,
                "prompt": module.queries.texts[index],
            }
            neighbour = scalars.pop("neighbour_row", None)
            if neighbour is not None:
                row["neighbour"] = int(neighbour)
                row["neighbour_prompt"] = module.kb.prompts[int(neighbour)]
            rows.append(row | {name: float(value) for name, value in scalars.items()})
    return rows


def _draw_rows(fields: Mapping[str, Fields]) -> list[dict[str, Any]]:
    """Resampled scores of whole sets, by which two entries are compared."""
    return [
        {"entry": entry, "quality": name, "draw": number, "value": drawn}
        for entry, found in fields.items()
        for name, value in found.items()
        if isinstance(value, Estimate)
        for number, drawn in enumerate(value.draws)
    ]


def _examples(module: Evaluate) -> list[Example]:
    repeats, found = module.table.repeats, []
    for index in sorted(set().union(*module.pictures.values())):
        pictures = {e: to_pixels(its[index]) for e, its in module.pictures.items() if index in its}
        prompt = module.queries.texts[index]
        found.append(Example(index // repeats, index % repeats, prompt, pictures))
    return found
