"""Where the numbers of a page come from: one line, one table, and everything on demand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from typing import Any

from redi.report.labels import DASH
from redi.report.results import Results

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
_SHORT = 12  # characters of a hash


def origin(results: Sequence[Results]) -> str:
    """How many runs, of which revision, finished when, on how many pictures."""
    facts = [_flat(run.provenance) for run in results]
    text = f"{len(results)} finished run{'s' if len(results) > 1 else ''}"
    counts = sorted({point.count for run in results for point in run.points})
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


def provenance(results: Sequence[Results]) -> str:
    """A table with a row per run, and below it all facts and the configuration of each."""
    facts = {run.run: _flat(run.provenance) for run in results}
    shown = [name for name in _COLUMNS if any(name in its for its in facts.values())]
    head = "".join(f"<th>{escape(text)}</th>" for text in ["run", *(_COLUMNS[n] for n in shown)])
    rows = "".join(
        "<tr>" + "".join(f"<td>{escape(c)}</td>" for c in [run, *(_brief(its, n) for n in shown)])
        for run, its in facts.items()
    )
    table = f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody>"
    overview = f'<div class="wide" tabindex="0"><table class="facts">{table}</table></div>'
    details = "".join(_details(run, facts[run.run]) for run in results)
    return f"{overview}<details><summary>Everything</summary>{details}</details>"


def _brief(facts: dict[str, str], name: str) -> str:
    value = facts.get(name, DASH)
    return value[:_SHORT] if name.endswith(("hash", "revision")) else value


def _details(run: Results, facts: dict[str, str]) -> str:
    rows = "".join(f"<tr><td>{escape(k)}</td><td>{escape(v)}</td></tr>" for k, v in facts.items())
    config = escape(json.dumps(run.config, indent=1))
    return (
        f"<details><summary>{escape(run.run)}</summary>"
        f'<div class="wide" tabindex="0"><table class="facts"><tbody>{rows}</tbody></table></div>'
        f"<pre>{config}</pre></details>"
    )


def _flat(value: dict[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, item in value.items():
        if isinstance(item, dict):
            flat |= _flat(item, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = str(item)
    return flat
