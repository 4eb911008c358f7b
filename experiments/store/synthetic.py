"""Keys that look like those of Stable Diffusion: 4 x 64 x 64, one shared noise, prompt effects."""

from __future__ import annotations

from functools import cache

import numpy as np

SHAPE = (4, 64, 64)
WIDTH = 4 * 64 * 64
RANK = 64  # directions in which prompts move a key, falling as rank^-0.7
EFFECT, REST = 0.25, 0.05  # norm of prompt effects and of the rest, relative to the shared noise
_POOL = 1 << 22


@cache
def _parts() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(20)
    shared = rng.standard_normal(WIDTH, np.float32)
    scale = (1 + np.arange(RANK, dtype=np.float32)) ** -0.7
    scale *= EFFECT / np.sqrt((scale**2).sum())
    directions = rng.standard_normal((RANK, WIDTH), np.float32) * scale[:, None]
    return shared, directions, REST * rng.standard_normal(_POOL, np.float32)


def keys(first: int, count: int, seed: int = 0) -> np.ndarray:
    """Keys `first` to `first + count - 1`: float32 (count, 4, 64, 64).

    The rest is a stretch of a long noise from a random place: independent between almost all pairs
    of keys, and quick to draw.
    """
    shared, directions, pool = _parts()
    out = np.empty((count, WIDTH), np.float32)
    effects = np.empty((count, RANK), np.float32)
    for i in range(count):
        rng = np.random.default_rng([seed, first + i])
        effects[i] = rng.standard_normal(RANK, np.float32)
        start = int(rng.integers(_POOL - WIDTH))
        out[i] = pool[start : start + WIDTH]
    out += effects @ directions
    out += shared
    return out.reshape(count, *SHAPE)
