"""What bad input meets: every command line and file case, and whether it is noticed.

    python experiments/robustness/cases.py [WORD ...]

prints one line for each case, or for those whose name has one of the words; with all of them it
writes `cases.md`. It ends with exit status 1 where a case ends in a traceback or goes unnoticed.
"""

from __future__ import annotations

import re
import sys
import tempfile
from collections import Counter
from pathlib import Path

from case import run
from commands import COMMANDS
from inputs import INPUTS

from redi.text import markdown_cell

PAGE = Path(__file__).with_name("cases.md")
TEMPORARY = re.compile(re.escape(tempfile.gettempdir()) + r"/[^/']+/")
HEAD = "| input | becomes | what is said |\n|---|---|---|\n"


def main() -> None:
    words = sys.argv[1:]
    cases = [c for c in (*COMMANDS, *INPUTS) if not words or any(w in c.told for w in words)]
    lines, kinds = [], Counter[str]()
    for case in cases:
        outcome = run(case)
        kinds[outcome.kind] += 1
        sentence = TEMPORARY.sub("", outcome.sentence)  # the folder has another name each time
        cells = (case.told, outcome.kind, sentence)
        lines.append("| " + " | ".join(map(markdown_cell, cells)) + " |\n")
        sys.__stdout__.write(lines[-1])
        sys.__stdout__.flush()
    bad = kinds["TRACEBACK"] + kinds["SILENT"]
    counted = ", ".join(f"{kind} {number}" for kind, number in sorted(kinds.items()))
    told = (
        f"{len(cases)} cases: {counted}; tracebacks {kinds['TRACEBACK']}, silent {kinds['SILENT']}."
    )
    sys.__stdout__.write(told + "\n")
    if not words:
        PAGE.write_text(f"# Bad input\n\n{told}\n\n{HEAD}{''.join(lines)}", "utf-8")
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
