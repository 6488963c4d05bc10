"""Packs by formula: a stream of text and images that needs no files.

Shapes: S tokens, N tiles.
"""

from typing import Literal

import numpy as np

from internvl_trainer.contract.catalog import ModelGeometry
from internvl_trainer.data.pack import Pack

IMAGE = 7
"""Id of `<IMG_CONTEXT>` in these packs."""
TEXT_ONLY_EVERY = 4
"""Every fourth pack has no image, where they are mixed."""

Images = Literal["mixed", "always", "never"]
"""Which packs have images. In a mixed global batch of four, the last data-parallel rank's last pack has none."""


def pack(index: int, geometry: ModelGeometry, *, with_tiles: bool = True, images: Images = "mixed") -> Pack:
    """Pack number `index`: three samples, of which the first two have one and two tiles."""
    draw = np.random.default_rng(index)
    text_only = {"mixed": index % TEXT_ONLY_EVERY == TEXT_ONLY_EVERY - 1, "always": False, "never": True}[images]
    counts = (0, 0, 0) if text_only else (1, 2, 0)
    samples = [_sample(draw, tiles * geometry.tokens_per_tile) for tiles in counts]
    side = geometry.vision.image_size
    pixels = draw.integers(0, 256, (sum(counts), side, side, 3), dtype=np.uint8)
    tokens, labels, weights = (np.concatenate(parts) for parts in zip(*samples, strict=True))
    bounds = np.cumsum([0, *(len(sample[0]) for sample in samples)]).astype(np.int32)
    names = tuple(f"pack-{index}-sample-{number}" for number in range(len(samples)))
    return Pack(index, names, tokens, labels, weights, bounds, pixels if with_tiles else None, counts)


def _sample(draw: np.random.Generator, placeholders: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A question with an image and an answer of some tokens, square-averaged."""
    answer = int(draw.integers(3, 9))
    question = draw.integers(10, 60, 5)
    tokens = np.concatenate([question, np.full(placeholders, IMAGE), draw.integers(10, 60, answer + 1)])
    labels = np.full(len(tokens), -100)
    labels[-answer - 1 : -1] = tokens[-answer:]
    weights = np.where(labels == -100, 0, answer**-0.5).astype(np.float32)
    return tokens.astype(np.int64), labels.astype(np.int64), weights
