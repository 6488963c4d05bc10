"""Images of one sample: their sizes without decoding, and their tiles.

Shapes: N tiles, S a tile's side, C = 3 colours.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from internvl_trainer.data import seeding, tiling
from internvl_trainer.data.errors import (
    BadSampleError,
    ImageSizeMismatchError,
    ImageTooLargeError,
    ImageUnreadableError,
)
from internvl_trainer.data.media import MediaReader, shown
from internvl_trainer.data.pixels import jpeg
from internvl_trainer.data.pixels.decode import Decoded, DecodeError, TooManyPixelsError, decode, stated_size
from internvl_trainer.data.pixels.resize import fill_tiles
from internvl_trainer.data.records import Record
from internvl_trainer.data.sources import Source, join
from internvl_trainer.storage import InvalidLocationError, ObjectNotFoundError


@dataclass(frozen=True)
class Tiling:
    """How a stage cuts images, apart from each data set's own n_max."""

    tile_size: int
    max_tiles: int
    thumbnail: bool

    def budget(self, source: Source, images: int) -> int:
        """n_max of each image of a sample with so many images."""
        return tiling.max_tiles_per_image(source.max_dynamic_patch or self.max_tiles, images)

    def grid(self, width: int, height: int, budget: int) -> tuple[int, int]:
        """Columns and rows for an image of this size."""
        return tiling.choose_grid(width, height, max_tiles=budget, tile_size=self.tile_size)

    def tiles(self, width: int, height: int, budget: int) -> int:
        """Of an image of this size, the thumbnail included."""
        return tiling.tile_count(
            width, height, max_tiles=budget, tile_size=self.tile_size, thumbnail=self.thumbnail
        )  # fmt: skip


def tile_counts(record: Record, source: Source, rules: Tiling, media: MediaReader) -> list[int]:
    """Tiles of each of a sample's images, from the record's sizes or else from the images' headers.

    Raises:
        ImageUnreadableError: the record has no sizes and an image is missing or no image.
        ImageTooLargeError: the record has no sizes and an image has too many pixels.
        StoreError: the store did not answer.
    """
    sizes = record.sizes or [_size(record.name, uri, media) for uri in uris(record, source)]
    budget = rules.budget(source, len(record.images))
    return [rules.tiles(width, height, budget) for width, height in sizes]


def load_tiles(
    record: Record,
    source: Source,
    expected: Sequence[int],
    rules: Tiling,
    media: MediaReader,
    key: tuple[int, ...],
    out: np.ndarray | None = None,
) -> np.ndarray:
    """All tiles of a sample, JPEG-augmented under `key` if the data set asks for it.

    Args:
        expected: tiles of each image, as counted.
        out: where to write them, uint8[N, S, S, 3], contiguous; a new array if absent.

    Raises:
        ImageUnreadableError: an image is missing or cannot be decoded.
        ImageTooLargeError: an image has more pixels than are decoded.
        ImageSizeMismatchError: an image yields another number of tiles than `expected` says for it.
        StoreError: the store did not answer.
    """
    side, budget = rules.tile_size, rules.budget(source, len(record.images))
    tiles_NSSC = np.empty((sum(expected), side, side, 3), dtype=np.uint8) if out is None else out
    begin = 0
    for uri, count in zip(uris(record, source), expected, strict=True):
        pixels_HWC, width, height = _decode(record.name, uri, media)
        if (found := rules.tiles(width, height, budget)) != count:
            raise ImageSizeMismatchError(
                record.name,
                f"image {shown(uri)} is {width} x {height} px and gives {found} tiles where its record's width and "
                f"height give {count}; correct the record",
            )
        fill_tiles(tiles_NSSC[begin : begin + count], pixels_HWC, *rules.grid(width, height, budget))
        begin += count
    if source.data_augment:
        jpeg.round_trip(tiles_NSSC, seeding.integers(len(tiles_NSSC), *jpeg.QUALITIES, *key).tolist())
    return tiles_NSSC


def uris(record: Record, source: Source) -> list[str]:
    """Where a record's images lie."""
    return [join(source.root, image) for image in record.images]


def _size(sample: str, uri: str, media: MediaReader) -> tuple[int, int]:
    try:
        try:
            return stated_size(media.read_header(uri))
        except TooManyPixelsError:
            raise
        except DecodeError:
            # The header may be longer, or the format may keep its sizes at the end.
            return stated_size(media.read(uri))
    except (DecodeError, ObjectNotFoundError, InvalidLocationError) as error:
        raise _unusable(sample, uri, error) from error


def _decode(sample: str, uri: str, media: MediaReader) -> Decoded:
    try:
        return decode(media.read(uri))
    except (DecodeError, ObjectNotFoundError, InvalidLocationError) as error:
        raise _unusable(sample, uri, error) from error


def _unusable(sample: str, uri: str, error: Exception) -> BadSampleError:
    if isinstance(error, TooManyPixelsError):
        return ImageTooLargeError(sample, f"image {shown(uri)} is {error}")
    if isinstance(error, DecodeError):
        return ImageUnreadableError(sample, f"image {shown(uri)} cannot be decoded: {error}")
    if isinstance(error, ObjectNotFoundError):
        return ImageUnreadableError(sample, f"image {shown(uri)} does not exist")
    return ImageUnreadableError(sample, f"image {shown(uri)} has no usable address; give s3://, file:// or a path")
