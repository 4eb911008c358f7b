"""Command lines that must end in one sentence before any work, or simply work."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from case import SMALL, Case
from rights import override


def small(*changes: str, prepare: Callable[[], object] = lambda: None, **options: Any) -> Case:
    """A run of seconds with these changes."""
    told = "redi " + " ".join(c or '""' for c in changes)
    return Case(_short(told), (prepare, (*SMALL, *changes)), **options)


def line(*arguments: str, **options: Any) -> Case:
    """A command line as it is."""
    told = "redi " + " ".join(a or '""' for a in arguments)
    return Case(_short(told), (arguments,), **options)


def _short(told: str) -> str:
    return told if len(told) < 80 else told[:60] + "..."


def _file() -> None:
    Path("file").write_text("")


def _without_rights() -> None:
    """A folder that cannot be written, also by root."""
    Path("shut").mkdir(mode=0o555)
    override(False)


def _login() -> None:
    os.environ.pop("WANDB_API_KEY", None)
    os.environ["NETRC"] = str(Path("netrc").absolute())


def _only() -> str:
    (found,) = Path("outputs/runs").glob("*/results.json")
    return f"ends with results in {found.parent.name.rpartition('-')[0]}-..."


NUMBERS = [
    *(small(f"{seed}=-1", words=("use at least 0",)) for seed in ("seed", "data.seed")),
    small("metrics.converged_steps=0", words=("use at least 2",)),
    small("metrics.resamples=0", words=("use at least 2",)),
    small("report.sheet_rows=-1", words=("use at least 0",)),
    small("trainer.threads=-1", words=("use at least 1",)),
    small("sampling.steps=100000", words=("use at most 1000",)),
    *(
        small(f"sampling.guidance_scale={value}", words=("sampling.guidance_scale=", "100"))
        for value in ("nan", "inf", "1e38")
    ),
    small("retrieval.skip_share=nan", words=("is not a number",)),
    small("kb.size=1000000000", words=("kb.size",)),
    small("retrieval.index=pq", "kb.size=8", "kb.shard_size=8", words=("retrieval.index=pq",)),
    small("sampler=pndm", "sampling.steps=1", words=("sampling.steps=1",)),
    small("sampler=euler", "sampler.timestep_spacing=leading", "sampling.steps=1000"),
]
STEPS = [
    small("retrieval.value_step=4", refused=False, after=_only),
    small("kb.key_step=2", refused=False, after=_only),  # the default value step is the last
]
FOLDERS = [
    small("run_dir=file", prepare=_file, words=("below the file",)),
    small("run_dir=file/run", prepare=_file, words=("below the file",)),
    small("run_dir=/proc/run", words=("cannot be written",)),
    small("run_dir=" + 300 * "a", words=("300 bytes",)),
    small("kb.root=/sys/kb", words=("kb.root='/sys/kb' cannot be written",)),
    small("reference_root=/sys/runs", words=("cannot be written",)),
    *(small(f"kb.dir={name}", prepare=_file, words=("kb.dir",)) for name in (".", "/")),
    small("kb.dir==", refused=False, after=lambda: f"writes {next(Path().glob('=*'))}"),
    small("run_dir=ünï", refused=False, after=lambda: f"writes {next(Path().glob('ün*'))}"),
    small("run_dir=a b (1)", refused=False, after=lambda: f"writes {next(Path().glob('a*'))}"),
]
_SHUT = {"prepare": _without_rights, "words": ("shut", "cannot be written")}
READ_ONLY = [
    *(small(f"{key}=shut/new", **_SHUT) for key in ("run_dir", "kb.dir", "kb.root")),
    small("reference_root=shut/new", **_SHUT),
    *(
        Case(f"redi {' '.join(line)}", (_without_rights, line), ("shut", "cannot be written"))
        for line in (
            ("train", "run_dir=shut/new"),
            ("theory", "run_dir=shut/new"),
            ("calibrate", "run_dir=shut/new"),
        )
    ),
    Case(
        "redi kb build, then redi kb merge shut/all kb",
        (("kb", "build", *SMALL, "kb.dir=kb"), _without_rights, ("kb", "merge", "shut/all", "kb")),
        ("shut", "cannot be written"),
    ),
    Case(
        "redi kb build, then redi kb export kb shut/all",
        (
            ("kb", "build", *SMALL, "kb.dir=kb"),
            _without_rights,
            ("kb", "export", "kb", "shut/all"),
        ),
        ("shut", "cannot be written"),
    ),
]
NAMES = [
    line("", words=("verb ''",)),
    small("", words=("not key=value",)),
    line("=5", words=("not key=value",)),
    line("--foo", words=("option '--foo'",)),
    line("sampler=ddmi", words=("did you mean 'ddim'?",)),
    line("kb.sise=96", words=("did you mean 'kb.size'?",)),
    line("theory=foo", words=("key 'theory'",)),
    line("theory", "theory=foo", words=("quick",)),
    Case(
        'redi kb build, then redi kb search ""',
        (("kb", "build", *SMALL), ("kb", "search", "", *SMALL)),
        ("prompt",),
    ),
    line("kb", "build", "data=file", words=("data.kb_file",)),
    line("experiment=corected", words=("did you mean 'corrected'?",)),
    line("report", "nowhere", words=("nowhere",)),
    line("train", "stage=al", words=("stage='al'",)),
    small("model=local", words=("model.path",)),
    small("metrics.hooks=[cost]", refused=False, after=_only),
    small("trainer.accelerator=gpu", words=("PyTorch finds 0",)),
    small("logger=wandb", "logger.mode=online", prepare=_login, words=("finds no login",)),
]
COMMANDS = [*NUMBERS, *STEPS, *FOLDERS, *READ_ONLY, *NAMES]
