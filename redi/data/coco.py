"""Captions of COCO 2014: one per training image for the KB, a seeded choice for the queries."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np

from redi.errors import UsageError
from redi.files import read_json

_SPLITS = {"kb": "train", "query": "val"}
LAYOUT = "ROOT/annotations/captions_train2014.json and ROOT/annotations/captions_val2014.json"


def captions(root: str | None, role: str, seed: int) -> list[str]:
    """One caption per image of the role's split, in a seeded order.

    The caption with the lowest annotation id is taken, so that every image counts once. A prefix
    of the list is a random sample of the split, and is the same for every length.

    Raises:
        UsageError: `root` is not set, or its files are missing or are not COCO captions.
    """
    if root is None:
        raise UsageError(f"data.root is not set: name the folder that holds {LAYOUT}")
    path = Path(root) / "annotations" / f"captions_{_SPLITS[role]}2014.json"
    if not path.is_file():
        raise UsageError(
            f"data.root={root!r} has no {path.relative_to(root)}: unpack COCO's "
            f"annotations_trainval2014.zip there ({LAYOUT})"
        )
    texts = _first_captions(path)
    order = np.random.default_rng([seed, 2014]).permutation(len(texts))
    return [texts[i] for i in order]


@cache
def _first_captions(path: Path) -> tuple[str, ...]:
    """The first caption of every image, in the order of image ids."""
    content = read_json(path, "the COCO captions")
    try:
        notes = content["annotations"]
        rows = sorted((int(n["image_id"]), int(n["id"]), str(n["caption"])) for n in notes)
    except (KeyError, TypeError, ValueError) as error:
        shown = json.dumps(str(error))
        raise UsageError(
            f"{str(path)!r} is not a COCO caption file ({shown}): download it again"
        ) from None
    first: dict[int, str] = {}
    for image, _, text in rows:
        first.setdefault(image, " ".join(text.split()))
    return tuple(first.values())
