"""Real pictures that FID, KID and CMMD compare with."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from redi.config import Config
from redi.data.coco import validation_pictures
from redi.data.pictures import read_picture
from redi.embedded.captions import sample
from redi.errors import UsageError

_PICTURES = (".png", ".jpg", ".jpeg", ".webp")


def real_files(config: Config) -> tuple[Path, list[Path]] | None:
    """The folder and the files of the real pictures; None where they are drawn.

    They are in metrics.real_folder, in name order, or COCO's validation images with data=coco2014.
    """
    folder, count = config.metrics.real_folder, config.metrics.real_images
    if folder is not None:
        paths = [p for p in sorted(Path(folder).rglob("*")) if p.suffix.lower() in _PICTURES]
        if len(paths) < 2:
            raise UsageError(
                f"metrics.real_folder={folder!r} holds {len(paths)} pictures: give at least 2"
            )
        return Path(folder), paths[:count]
    if config.data.name == "coco2014":
        root = config.data.root
        return Path(str(root)), validation_pictures(root, count, config.data.seed)
    if config.data.name != "scenes":
        raise UsageError(
            "metrics.real_folder=None leaves FID, KID and CMMD without real pictures: name a "
            "folder or leave 'inception' and 'clip' out of metrics.hooks"
        )
    return None


def real_pictures(config: Config) -> list[np.ndarray]:
    """uint8 (H, W, 3): the pictures of `real_files`, else rendered held-out scenes."""
    found = real_files(config)
    if found is not None:
        return [read_picture(path) for path in found[1]]
    drawn = [sample("query", index, seed=3) for index in range(config.metrics.real_images)]
    return [scene.render(rng) for scene, rng in drawn]
