"""Memory of retrieval, in a process that does nothing else (Linux).

python experiments/store/resident.py KB SIZE     # opens `auto` retrieval, asks 256 queries
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

from redi.knowledge_base import KnowledgeBase
from redi.retrieval import open_search

KEY = ("step_0010", "latents")
BATCH = 16


def resident(root: Path, size: int) -> dict[str, float]:
    """Of a fresh process, in MB: see `main`."""
    command = [sys.executable, __file__, str(root), str(size)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def status(name: str) -> float:
    """A line of this process's status, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1]) * 1024 / 1e6


def main(root: Path, size: int) -> dict[str, float]:
    """Resident memory after the imports and at its peak: anonymous, file-backed, and together."""
    found = {"imports anonymous": status("RssAnon"), "imports file-backed": status("RssFile")}
    kb = KnowledgeBase(root, size, hashes=False)
    search = open_search(kb, *KEY, np.zeros(size, int), say=lambda _: None)
    anonymous = status("RssAnon")
    for first in range(0, 256, BATCH):
        queries = torch.from_numpy(kb.column(*KEY, first, first + BATCH).numpy() + 0.01)
        search.search(queries, [0] * BATCH, 5)
        anonymous = max(anonymous, status("RssAnon"))
    files = status("RssFile")
    return {**found, "anonymous": anonymous, "file-backed": files, "peak": status("VmHWM")}


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), int(sys.argv[2]))))
