"""Real pictures that FID, KID and CMMD compare with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from redi.config import Config
from redi.data.coco import validation_pictures
from redi.embedded.scenes import sample
from redi.errors import UsageError

_PICTURES = (".png", ".jpg", ".jpeg", ".webp")


def real_pictures(config: Config) -> list[np.ndarray]:
    """uint8 (H, W, 3): metrics.real_folder in name order, else what belongs to the prompts.

    That is COCO's validation images with data=coco2014, rendered held-out scenes with data=scenes.
    """
    folder, count = config.metrics.real_folder, config.metrics.real_images
    if folder is not None:
        paths = [p for p in sorted(Path(folder).rglob("*")) if p.suffix.lower() in _PICTURES]
        if len(paths) < 2:
            raise UsageError(
                f"metrics.real_folder={folder!r} holds {len(paths)} pictures: give at least 2"
            )
        return [_read(path) for path in paths[:count]]
    if config.data.name == "coco2014":
        return [_read(p) for p in validation_pictures(config.data.root, count, config.data.seed)]
    if config.data.name != "scenes":
        raise UsageError(
            "metrics.real_folder=None leaves FID, KID and CMMD without real pictures: name a "
            "folder or leave 'inception' and 'clip' out of metrics.hooks"
        )
    drawn = [sample("query", index, seed=3) for index in range(count)]
    return [scene.render(rng) for scene, rng in drawn]


def _read(path: Path) -> np.ndarray:
    try:
        return np.array(Image.open(path).convert("RGB"))
    except OSError as error:
        raise UsageError(
            f"{str(path)!r} is not a picture that can be read ({type(error).__name__}): copy or "
            "unpack it again"
        ) from error
