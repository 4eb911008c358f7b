"""COCO 2014: captions of training images for the KB, of validation images for the queries.

The validation images themselves are the real pictures that distributions are compared with.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np

from redi.data.overlap import same_to_a_model
from redi.errors import UsageError
from redi.reading import read_json

_SPLITS = {"kb": "train", "query": "val"}
LAYOUT = "ROOT/annotations/captions_train2014.json and ROOT/annotations/captions_val2014.json"
PICTURES = "ROOT/val2014/COCO_val2014_000000000042.jpg and so on"


def captions(root: str | None, role: str, seed: int) -> list[str]:
    """One caption per image of the role's split, in a seeded order.

    The caption with the lowest annotation id is taken, so that every image counts once. A prefix
    of the list is a random sample of the split, and is the same for every length. A caption of the
    validation split that some training image has too is left out: queries are not in the KB.

    Raises:
        UsageError: `root` is not set, or its files are missing or are not COCO captions.
    """
    return [text for _, text in _ordered(root, role, seed)]


def validation_pictures(root: str | None, count: int, seed: int) -> list[Path]:
    """Files of `count` validation images, those of the first query captions first.

    Raises:
        UsageError: as `captions`, or the images are not there.
    """
    rows = _ordered(root, "query", seed)
    folder = Path(str(root)) / "val2014"
    if not folder.is_dir():
        raise UsageError(
            f"data.root={root!r} has no val2014: unpack COCO's val2014.zip there ({PICTURES}), or "
            "set metrics.real_folder"
        )
    if len(rows) < count:
        raise UsageError(
            f"metrics.real_images={count} is more than the {len(rows)} captioned images of "
            f"data.root={root!r}: use fewer"
        )
    paths = [folder / f"COCO_val2014_{image:012d}.jpg" for image, _ in rows[:count]]
    if missing := [path.name for path in paths if not path.is_file()]:
        raise UsageError(
            f"data.root={root!r} lacks {len(missing)} of {count} images in val2014, such as "
            f"{missing[0]}: unpack COCO's val2014.zip again ({PICTURES})"
        )
    return paths


def _ordered(root: str | None, role: str, seed: int) -> list[tuple[int, str]]:
    """Image ids and captions of the role's split in the seeded order."""
    if root is None:
        raise UsageError(f"data.root is not set: name the folder that holds {LAYOUT}")
    rows = list(_split(root, role))
    if role == "query":
        known = {same_to_a_model(text) for _, text in _split(root, "kb")}
        rows = [(image, text) for image, text in rows if same_to_a_model(text) not in known]
    order = np.random.default_rng([seed, 2014]).permutation(len(rows))
    return [rows[i] for i in order]


def _split(root: str, role: str) -> tuple[tuple[int, str], ...]:
    path = Path(root) / "annotations" / f"captions_{_SPLITS[role]}2014.json"
    if not path.is_file():
        raise UsageError(
            f"data.root={root!r} has no {path.relative_to(root)}: unpack COCO's "
            f"annotations_trainval2014.zip there ({LAYOUT})"
        )
    return _first_captions(path)


@cache
def _first_captions(path: Path) -> tuple[tuple[int, str], ...]:
    """Id and first caption of every image, in the order of image ids."""
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
    return tuple(first.items())
