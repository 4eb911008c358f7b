"""In which fields two descriptions of a setting differ, in words."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

_SHOWN = 60  # characters of a value
_BEFORE = 12  # of them before the first one that differs
ABSENT = object()


def differences(theirs: Mapping[str, Any], mine: Mapping[str, Any], who: str) -> list[str]:
    """One line for each field that differs, as "field: KB has X, the pipeline Y".

    A mapping inside is compared field by field; a field that one side lacks differs.
    """
    lines = []
    for name in dict.fromkeys([*mine, *theirs]):
        its, own = theirs.get(name, ABSENT), mine.get(name, ABSENT)
        if isinstance(its, Mapping) and isinstance(own, Mapping):
            lines += [f"{name}.{line}" for line in differences(its, own, who)]
        elif its is ABSENT or own is ABSENT or its != own:
            shown, also = _shown(its, own)
            lines.append(f"{name}: KB has {shown}, {who} {also}")
    return lines


def _shown(its: Any, own: Any) -> tuple[str, str]:
    """Both values as short texts that show where they differ."""
    texts = ["nothing" if v is ABSENT else json.dumps(v) for v in (its, own)]
    if max(map(len, texts)) <= _SHOWN:
        return texts[0], texts[1]
    pairs = zip(*texts, strict=False)
    same = next((i for i, (a, b) in enumerate(pairs) if a != b), min(map(len, texts)))
    first = max(0, same - _BEFORE)
    return _cut(texts[0], first), _cut(texts[1], first)


def _cut(text: str, first: int) -> str:
    before = "..." if first else ""
    rest = text[first:]
    return before + (rest if len(rest) <= _SHOWN else rest[: _SHOWN - 3] + "...")
