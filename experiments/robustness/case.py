"""One case of bad input, and what becomes of it in this process."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rights import override

from redi import cli
from redi.errors import UsageError

#: a run of seconds
SMALL = (
    *("sampling.steps=4", "kb.key_step=1", "kb.size=2", "kb.shard_size=2", "data.num_queries=2"),
    *("model.batch_size=2", "metrics.hooks=[cost,fidelity]", "metrics.resamples=10"),
    *("baselines=[]", "report.sheet_rows=0", "logger=none", "reference_root=null"),
)


@dataclass(frozen=True)
class Case:
    """Steps in an empty folder: command lines of redi, and calls.

    `words` have to be in the refusal, or in what the last command prints where nothing is refused;
    then `after` looks at what was made and says so.
    """

    told: str
    steps: tuple[tuple[str, ...] | Callable[[], object], ...]
    words: tuple[str, ...] = ()
    refused: bool = True
    after: Callable[[], str] = lambda: ""


@dataclass(frozen=True)
class Outcome:
    """`kind`: refused, done, SILENT (neither refused nor right) or TRACEBACK."""

    kind: str
    sentence: str


def run(case: Case) -> Outcome:
    """What the case meets: nothing of it is left behind."""
    out, err, before = io.StringIO(), io.StringIO(), Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                _do(case, out)
            return _done(case, out.getvalue())
        except UsageError as error:
            return _refused(case, str(error))
        except SystemExit as stopped:
            said = err.getvalue().strip()
            if stopped.code == 2 and said.startswith("redi: ") and "\n" not in said:
                return _refused(case, said.removeprefix("redi: "))
            return Outcome("TRACEBACK", said)
        except Exception as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{Path(last.filename).name}:{last.lineno}"
            return Outcome("TRACEBACK", f"{type(error).__name__}: {error} ({where})")
        finally:
            override(True)  # a case may have given it up
            os.chdir(before)


def _do(case: Case, out: io.StringIO) -> None:
    for step in case.steps:
        if callable(step):
            step()
            continue
        out.seek(0)
        out.truncate()
        sys.argv = ["redi", *step]
        cli.main()


def _refused(case: Case, sentence: str) -> Outcome:
    if not case.refused:
        return Outcome("SILENT", f"refused, and should not be: {sentence}")
    missing = [word for word in case.words if word not in sentence]
    return Outcome("SILENT" if missing else "refused", sentence)


def _done(case: Case, printed: str) -> Outcome:
    if "\x1b" in printed:
        return Outcome("SILENT", "an escape sequence reaches the terminal")
    if case.refused:
        return Outcome("SILENT", "not refused")
    missing = [word for word in case.words if word not in " ".join(printed.split())]
    if missing:
        return Outcome("SILENT", f"says nothing of {missing[0]!r}")
    return Outcome("done", case.after())
