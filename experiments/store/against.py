"""What reading a KB costs against another revision of redi: ratios, with intervals.

    python experiments/store/against.py other=TREE [repeats=400]

TREE is a checkout of the other revision, for instance made by `git worktree add TREE 402693f`.
Each revision runs in its own process, on a KB of 4,000 synthetic keys in four shards that it wrote
itself, and takes its turn after the other for every single repeat. CPU seconds are compared: the
files are in memory, so that other work on the machine changes them little. An interval is that of
the median of the ratios of neighbouring turns (bootstrap, 95%).
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).resolve().parent
OPTIONS = {"other": "", "repeats": "400"}
ROWS = 4000
#: how often an action is taken in one turn, so that a turn is about a millisecond
TIMES = {
    "gather 5 neighbours for 16 queries": 4,
    "read a column of 1,000 trajectories": 1,
    "open, hashes not checked": 4,
    "open and gather once": 2,
    "open, hashes checked": 1,
}


def actions(folder: Path) -> dict[str, Callable[[], object]]:
    """What is timed, on a KB in `folder` that is made here."""
    import numpy as np
    import torch
    from disk import KEY, make_keys

    from redi.knowledge_base import KnowledgeBase

    torch.set_num_threads(1)
    kb = make_keys(folder, ROWS)
    rng = np.random.default_rng(0)

    def rows() -> torch.Tensor:
        return torch.from_numpy(rng.integers(ROWS, size=(16, 5)))

    def fresh(hashes: bool = False) -> KnowledgeBase:
        return KnowledgeBase(kb.root, ROWS, hashes=hashes)

    return {
        "gather 5 neighbours for 16 queries": lambda: kb.gather(*KEY, rows()),
        "read a column of 1,000 trajectories": lambda: kb.column(*KEY, 0, 1000),
        "open, hashes not checked": fresh,
        "open and gather once": lambda: fresh().gather(*KEY, rows()),
        "open, hashes checked": lambda: fresh(hashes=True),
    }


def serve(folder: Path) -> None:
    """Take the actions that are named on the standard input; answer their CPU seconds."""
    known = actions(folder)
    print("ready", flush=True)
    for line in sys.stdin:
        action, times = known[line.strip()], TIMES[line.strip()]
        begun = time.process_time()
        for _ in range(times):
            action()
        print((time.process_time() - begun) / times, flush=True)


class Revision:
    """A process that runs one tree's redi."""

    def __init__(self, tree: Path, folder: Path) -> None:
        path = os.pathsep.join(map(str, (tree, tree / "experiments" / "store")))
        self.process = subprocess.Popen(
            [sys.executable, "-P", __file__, f"serve={folder}"],
            env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def told(self) -> str:
        assert self.process.stdout is not None
        while (line := self.process.stdout.readline()).startswith("Building"):
            pass
        if not line:
            raise SystemExit("against: a revision ended before it answered")
        return line.strip()

    def seconds(self, action: str) -> float:
        assert self.process.stdin is not None
        self.process.stdin.write(action + "\n")
        self.process.stdin.flush()
        return float(self.told())


def main(arguments: list[str]) -> None:
    """Print a table, and write it to against.md beside this file."""
    import numpy as np

    given = OPTIONS | dict(argument.split("=", 1) for argument in arguments)
    if set(given) - set(OPTIONS) or not (Path(given["other"]) / "redi").is_dir():
        sys.exit("against: other=TREE names a checkout of another revision; repeats=400")
    trees = {"before": Path(given["other"]).resolve(), "now": HERE.parents[1]}
    names = [_revision(tree) for tree in trees.values()]
    lines = [
        f"`python experiments/store/against.py other=TREE repeats={given['repeats']}`: CPU "
        f"milliseconds at {names[0]} (before) and {names[1]} (now), in turns.",
        "",
        "| what | before | now | now / before | 95% interval |",
        "|---|---:|---:|---:|---|",
    ]
    with tempfile.TemporaryDirectory() as folder:
        before, now = (Revision(t, Path(folder, n)) for n, t in trees.items())
        assert before.told() == now.told() == "ready"
        for action in TIMES:
            pairs = [
                (before.seconds(action), now.seconds(action))
                if turn % 2
                else (now.seconds(action), before.seconds(action))[::-1]
                for turn in range(int(given["repeats"]))
            ]
            old, new = np.array(pairs[len(pairs) // 20 :]).T  # without the first turns
            ratios, rng = new / old, np.random.default_rng(0)
            draws = np.median(ratios[rng.integers(len(ratios), size=(2000, len(ratios)))], axis=1)
            low, high = np.quantile(draws, [0.025, 0.975])
            lines.append(
                f"| {action} | {1e3 * np.median(old):.3f} | {1e3 * np.median(new):.3f} | "
                f"{np.median(ratios):.3f} | {low:.3f} to {high:.3f} |"
            )
            print(lines[-1], flush=True)
        for revision in (before, now):
            assert revision.process.stdin is not None
            revision.process.stdin.close()
            revision.process.wait()
    (HERE / "against.md").write_text("\n".join(lines) + "\n")


def _revision(tree: Path) -> str:
    git = ["git", "-C", str(tree)]
    revision = subprocess.check_output([*git, "rev-parse", "--short", "HEAD"], text=True).strip()
    changed = subprocess.check_output([*git, "status", "--porcelain", "-uno"], text=True).strip()
    return f"{revision}, changed" if changed else revision


if __name__ == "__main__":
    if sys.argv[1:] and sys.argv[1].startswith("serve="):
        serve(Path(sys.argv[1].removeprefix("serve=")))
    else:
        main(sys.argv[1:])
