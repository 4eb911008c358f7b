"""Reading a user's pictures: as eight bits of red, green and blue, or refused by name."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from PIL import Image

from redi.errors import UsageError

_ALPHA = ("RGBA", "LA", "PA", "RGBa", "La")


def read_picture(path: Path) -> np.ndarray:
    """uint8 (H, W, 3).

    Grey and palette pictures become RGB, CMYK by Pillow's formula (no colour profile is applied);
    16-bit grey levels are scaled to 8 bits.

    Raises:
        UsageError: damaged, too large to be a photograph, with transparent parts, or of numbers
            that are no colours.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                return _rgb(image, path)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise UsageError(
            f"{str(path)!r} has more than {Image.MAX_IMAGE_PIXELS} pixels: take it out or make it "
            "smaller"
        ) from None
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(
            f"{str(path)!r} is not a picture that can be read ({type(error).__name__}): copy or "
            "unpack it again"
        ) from error


def _rgb(image: Image.Image, path: Path) -> np.ndarray:
    if image.mode.startswith(("I", "F")):
        return _from_numbers(image, path)
    if image.mode in _ALPHA or "transparency" in image.info:
        image = image.convert("RGBA")
        if image.getchannel("A").getextrema() != (255, 255):
            raise UsageError(
                f"{str(path)!r} has transparent parts, whose colour is not defined: put it on a "
                "background"
            )
    return np.array(image.convert("RGB"))


def _from_numbers(image: Image.Image, path: Path) -> np.ndarray:
    """Grey levels of more than 8 bits: 0 to 65535 in a PNG or TIFF."""
    levels = np.asarray(image)
    if image.mode == "F" or levels.min() < 0 or levels.max() > 65535:
        raise UsageError(f"{str(path)!r} holds numbers, not grey levels: save it with 8 bits")
    grey = np.rint(levels / 257).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)
