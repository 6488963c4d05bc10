"""Images of one sample: their sizes without decoding, and their tiles."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from internvl_trainer.data import seeding, tiling
from internvl_trainer.data.errors import ImageSizeMismatchError, ImageUnreadableError
from internvl_trainer.data.media import MediaCache
from internvl_trainer.data.records import Record
from internvl_trainer.data.sources import Source, join
from internvl_trainer.storage import ObjectNotFoundError

# What Pillow raises for files it cannot decode: damaged data, unknown formats, absurd sizes.
_UNDECODABLE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)


@dataclass(frozen=True)
class Tiling:
    """How a stage cuts images, apart from each data set's own n_max."""

    tile_size: int
    max_tiles: int
    thumbnail: bool

    def budget(self, source: Source, images: int) -> int:
        """n_max of each image of a sample with so many images."""
        return tiling.max_tiles_per_image(source.max_dynamic_patch or self.max_tiles, images)


def tile_counts(record: Record, source: Source, rules: Tiling, media: MediaCache) -> list[int]:
    """Tiles of each of a sample's images, from the record's sizes or else from the images' headers.

    Raises:
        ImageUnreadableError: the record has no sizes and an image is missing or no image.
    """
    sizes = record.sizes or [_size(record.name, _path(record.name, uri, media)) for uri in uris(record, source)]
    budget = rules.budget(source, len(record.images))
    return [
        tiling.tile_count(
            width, height, max_tiles=budget, tile_size=rules.tile_size, thumbnail=rules.thumbnail
        )
        for width, height in sizes
    ]  # fmt: skip


def load_tiles(
    record: Record, source: Source, expected: Sequence[int], rules: Tiling, media: MediaCache, key: tuple[int, ...]
) -> np.ndarray:
    """All tiles of a sample, uint8[N, tile, tile, 3], JPEG-augmented under `key` if the data set asks for it.

    Raises:
        ImageUnreadableError: an image is missing or cannot be decoded.
        ImageSizeMismatchError: an image yields another number of tiles than `expected` says for it.
    """
    budget = rules.budget(source, len(record.images))
    blocks = [np.empty((0, rules.tile_size, rules.tile_size, 3), dtype=np.uint8)]
    for uri, count in zip(uris(record, source), expected, strict=True):
        tiles_NHWC = _decode(record.name, _path(record.name, uri, media), rules, budget)
        if len(tiles_NHWC) != count:
            raise ImageSizeMismatchError(
                record.name,
                f"image {uri} gives {len(tiles_NHWC)} tiles where its record's width and height give {count}",
            )
        blocks.append(tiles_NHWC)
    tiles_NHWC = np.concatenate(blocks)
    if source.data_augment:
        qualities = seeding.integers(len(tiles_NHWC), *tiling.JPEG_QUALITIES, *key).tolist()
        tiles_NHWC = tiling.jpeg_round_trip(tiles_NHWC, qualities)
    return tiles_NHWC


def uris(record: Record, source: Source) -> list[str]:
    """Where a record's images lie."""
    return [join(source.root, image) for image in record.images]


def _path(sample: str, uri: str, media: MediaCache) -> Path:
    try:
        return media.media(uri)
    except ObjectNotFoundError as error:
        raise ImageUnreadableError(sample, f"image {uri} does not exist") from error


def _size(sample: str, path: Path) -> tuple[int, int]:
    try:
        with Image.open(path) as image:
            return image.size
    except _UNDECODABLE as error:
        raise ImageUnreadableError(sample, f"image {path} cannot be read: {error}") from error


def _decode(sample: str, path: Path, rules: Tiling, budget: int) -> np.ndarray:
    try:
        with Image.open(path) as image:
            return tiling.tile_image(image, max_tiles=budget, tile_size=rules.tile_size, thumbnail=rules.thumbnail)
    except _UNDECODABLE as error:
        raise ImageUnreadableError(sample, f"image {path} cannot be decoded: {error}") from error
