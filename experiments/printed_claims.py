"""What runs printed whose files are lost, as judgements: see guidance/printed/README.md."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent / "guidance" / "printed"
#: sampler, guidance scale and kind of ReDi of the points of guidance.txt, in their order
_SWEEP = (
    *(("pndm", scale, which) for which in ("as published", "at its best") for scale in (1.5, 3)),
    *(("dpm_solver", scale, "as published") for scale in (1.5, 3)),
)
_METRICS = ("CLIP score", "FD-scene")
_LOWER_IS_BETTER = ("FD-scene",)
_NUMBER = r"(-?[\d.]+)"


class Printed(NamedTuple):
    """A paired gain over the same sampler with as many calls, and half of its interval."""

    setting: str
    metric: str
    gain: float
    margin: float
    kb_size: int
    pictures: int


def printed() -> Iterator[Printed]:
    """Every paired difference of the printed sentences, positive where ReDi is the better one."""
    for name, settings, pictures in (
        ("guidance.txt", _SWEEP, 256),
        ("quality-pndm.txt", (("pndm", 7.5, "at its best"),), 512),
    ):
        text = " ".join((HERE / name).read_text("utf-8").split())
        told = re.findall(r"ReDi \(\w+, k = \d+.*?Pictures, plot and numbers: \S*-kb(\d+)-", text)
        sentences = re.findall(r"(ReDi \(\w+, k = \d+.*?)Pictures, plot", text)
        for (sampler, scale, which), size, sentence in zip(settings, told, sentences, strict=True):
            for metric in _METRICS:
                pattern = rf"{metric} \([^)]*paired difference {_NUMBER} ± {_NUMBER}\)"
                found = re.search(pattern, sentence)
                if found is not None:
                    sign = -1 if metric in _LOWER_IS_BETTER else 1
                    yield Printed(
                        f"{sampler}, guidance {scale:g}, {which}",
                        metric,
                        sign * float(found[1]),
                        float(found[2]),
                        int(size),
                        pictures,
                    )
