"""Dynamic high resolution: which grid an image is cut into, and the cutting.

Source: InternVL-2.5 report, section 3.1, and the released behaviour (bicubic resize to the grid regardless of
distortion, row-major tiles, thumbnail last).
Shapes: N tiles, S a tile's side, H and W an image's height and width, C = 3 colours.
"""

from functools import lru_cache

import numpy as np
from PIL import Image

from internvl_trainer.data.pixels.decode import rgb
from internvl_trainer.data.pixels.resize import fill_tiles


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
    image: Image.Image | np.ndarray,
    *,
    min_tiles: int = 1,
    max_tiles: int = 12,
    tile_size: int = 448,
    thumbnail: bool = True,
) -> np.ndarray:
    """Cut an image into square tiles.

    Args:
        image: of Pillow, in any mode, or uint8[H, W, 3].

    Returns:
        uint8[N, tile_size, tile_size, 3]: the grid's tiles in reading order, then, if there is more than one and
        `thumbnail` is set, the whole image as one tile.

    Raises:
        ValueError: an array of another shape or type; sizes as for `choose_grid`.
    """
    pixels_HWC = image if isinstance(image, np.ndarray) else rgb(image)
    if pixels_HWC.dtype != np.uint8 or pixels_HWC.ndim != 3 or pixels_HWC.shape[2] != 3:
        raise ValueError(f"an image must be uint8[H, W, 3]; is {pixels_HWC.dtype}{list(pixels_HWC.shape)}")
    height, width, _ = pixels_HWC.shape
    columns, rows = choose_grid(width, height, min_tiles, max_tiles, tile_size)
    count = columns * rows + (thumbnail and columns * rows > 1)
    tiles_NSSC = np.empty((count, tile_size, tile_size, 3), dtype=np.uint8)
    fill_tiles(tiles_NSSC, pixels_HWC, columns, rows)
    return tiles_NSSC
