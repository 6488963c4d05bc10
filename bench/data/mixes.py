"""Sizes of samples as data sets of several kinds have them: what packers are judged by."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

TOKENS_PER_TILE = 256
TOKENS_PER_FRAME = 262
"""A frame's visual tokens and the few that name it."""

ROUGH_GRIDS = {1: 0.12, 2: 0.05, 3: 0.06, 4: 0.16, 6: 0.26, 8: 0.09, 9: 0.08, 12: 0.18}
FINE_GRIDS = {6: 0.2, 9: 0.2, 12: 0.6}
"""How often an image's grid has so many tiles."""


class Sizes(NamedTuple):
    """Of each sample, int64[n]."""

    tokens: np.ndarray
    tiles: np.ndarray


class Shares(NamedTuple):
    """How many of all samples are of one kind."""

    single: float
    multi: float
    video: float
    text: float


def mixed(
    samples: int,
    seed: int,
    shares: Shares,
    *,
    grids: dict[int, float] = ROUGH_GRIDS,
    text: tuple[int, int] = (120, 8000),
) -> Sizes:
    """Images by grid with a thumbnail, several images, videos of 8 to 32 frames, text; lengths of text are log-normal.

    Args:
        text: median and greatest length of samples of text alone.
    """
    random = np.random.default_rng(seed)
    kind = random.choice(len(shares), samples, p=np.asarray(shares) / sum(shares))
    grid = random.choice(list(grids), samples, p=np.asarray(list(grids.values())) / sum(grids.values()))
    several, frames = random.integers(2, 20, samples), random.integers(8, 33, samples)
    tiles = np.select([kind == 0, kind == 1, kind == 2], [grid + (grid > 1), several, frames], 0)
    around_images = np.minimum(random.lognormal(np.log(300), 0.8, samples), 4000)
    alone = np.minimum(random.lognormal(np.log(text[0]), 1.0, samples), text[1])
    written = np.where(kind == 3, alone, around_images).astype(np.int64) + 40
    return Sizes(tiles * np.where(kind == 2, TOKENS_PER_FRAME, TOKENS_PER_TILE) + written, tiles)


def documents(samples: int, seed: int) -> Sizes:
    """Pages of 13 to 37 tiles: two fill a pack, or one does."""
    random = np.random.default_rng(seed)
    tiles = random.integers(13, 38, samples)
    return Sizes(tiles * TOKENS_PER_TILE + random.integers(100, 1600, samples), tiles)


MIXES: dict[str, Callable[[int, int], Sizes]] = {
    "InternVL-like": lambda samples, seed: mixed(samples, seed, Shares(0.39, 0.055, 0.14, 0.415)),
    "both limits bind": lambda samples, seed: mixed(samples, seed, Shares(0.4, 0.05, 0.12, 0.43), text=(400, 8000)),
    "video": lambda samples, seed: mixed(samples, seed, Shares(0.1, 0.05, 0.7, 0.15)),
    "images of 7, 10 and 13 tiles": lambda samples, seed: mixed(
        samples, seed, Shares(0.85, 0.0, 0.0, 0.15), grids=FINE_GRIDS
    ),
    "documents": documents,
    "text": lambda samples, seed: mixed(samples, seed, Shares(0, 0, 0, 1), text=(600, 16000)),
}
