"""Dynamic high resolution: which grid an image is cut into, and the cutting.

Source: InternVL-2.5 report, section 3.1, and the released behaviour (bicubic resize to the grid regardless of
distortion, row-major tiles, thumbnail last, one JPEG pass per tile as augmentation).
Shapes: N tiles, H and W one tile's height and width, C = 3 colours.
"""

import io
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from PIL import Image

JPEG_QUALITIES = (75, 100)
"""Range, both ends included, of the quality at which an augmented tile is re-encoded."""


@lru_cache(maxsize=256)
def _candidates(min_tiles: int, max_tiles: int) -> tuple[tuple[int, int], ...]:
    """Every (columns, rows) with an area of min_tiles..max_tiles, by growing area.

    The order inside one area decides ties only where min_tiles >= 2, and there the released models were trained with
    the order in which a hash set yields its members. The same set, fed in the same sequence, gives the same ties.
    """
    grids = [
        (columns, rows)
        for columns in range(1, max_tiles + 1)
        for rows in range(1, max_tiles // columns + 1)
        if columns * rows >= min_tiles
    ]
    grids.sort(key=lambda grid: (max(*grid, min_tiles), grid))
    unordered = set()
    for grid in grids:
        unordered.add(grid)  # one by one: a set built at once from a list can be laid out differently
    return tuple(sorted(unordered, key=lambda grid: grid[0] * grid[1]))


def choose_grid(
    width: int, height: int, min_tiles: int = 1, max_tiles: int = 12, tile_size: int = 448
) -> tuple[int, int]:
    """The grid (columns, rows) whose aspect ratio is nearest to the image's.

    Among equally near ones a larger grid wins while the image's area is more than half of the grid's. Comparisons are
    made in float64, so that ties fall exactly where they fell for the released models.

    Raises:
        ValueError: a size or the range of tiles is not positive.
    """
    if min(width, height, min_tiles, tile_size) < 1 or max_tiles < min_tiles:
        raise ValueError(
            f"no grid of {min_tiles}..{max_tiles} tiles of {tile_size} px for an image of {width} x {height} px; "
            "sizes must be positive and min_tiles at most max_tiles"
        )
    ratio = width / height
    best, best_distance = (1, 1), float("inf")
    for columns, rows in _candidates(min_tiles, max_tiles):
        distance = abs(ratio - columns / rows)
        tie = distance == best_distance and width * height > 0.5 * tile_size * tile_size * columns * rows
        if distance < best_distance or tie:
            best, best_distance = (columns, rows), distance
    return best


def tile_count(
    width: int,
    height: int,
    *,
    min_tiles: int = 1,
    max_tiles: int = 12,
    tile_size: int = 448,
    thumbnail: bool = True,
) -> int:
    """How many tiles `tile_image` returns for an image of this size: the grid's, and a thumbnail if more than one."""
    columns, rows = choose_grid(width, height, min_tiles, max_tiles, tile_size)
    return columns * rows + (thumbnail and columns * rows > 1)


def max_tiles_per_image(max_tiles: int, images: int) -> int:
    """The share of a sample's tile budget that each of its images gets; thumbnails come on top."""
    return max(1, max_tiles // max(1, images))


def tile_image(
    image: Image.Image,
    *,
    min_tiles: int = 1,
    max_tiles: int = 12,
    tile_size: int = 448,
    thumbnail: bool = True,
) -> np.ndarray:
    """Cut an image into square tiles.

    Returns:
        uint8[N, tile_size, tile_size, 3]: the grid's tiles in reading order, then, if there is more than one and
        `thumbnail` is set, the whole image as one tile.
    """
    image = image.convert("RGB")
    columns, rows = choose_grid(image.width, image.height, min_tiles, max_tiles, tile_size)
    grid = np.asarray(image.resize((columns * tile_size, rows * tile_size), Image.Resampling.BICUBIC))
    by_row_and_column = grid.reshape(rows, tile_size, columns, tile_size, 3).transpose(0, 2, 1, 3, 4)
    tiles_NHWC = by_row_and_column.reshape(-1, tile_size, tile_size, 3)
    if thumbnail and len(tiles_NHWC) > 1:
        whole = np.asarray(image.resize((tile_size, tile_size), Image.Resampling.BICUBIC))
        tiles_NHWC = np.concatenate([tiles_NHWC, whole[None]])
    return np.ascontiguousarray(tiles_NHWC)


def jpeg_round_trip(tiles_NHWC: np.ndarray, qualities: Sequence[int]) -> np.ndarray:
    """Each tile after being written as JPEG at its own quality and read again: the recipe's only augmentation."""
    augmented = np.empty_like(tiles_NHWC)
    for n, (tile_HWC, quality) in enumerate(zip(tiles_NHWC, qualities, strict=True)):
        buffer = io.BytesIO()
        Image.fromarray(tile_HWC).save(buffer, format="JPEG", quality=int(quality))
        augmented[n] = np.asarray(Image.open(buffer).convert("RGB"))
    return augmented
