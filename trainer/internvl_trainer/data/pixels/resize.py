"""Bicubic resizing with antialiasing, and the cutting into tiles.

torch's uint8 kernel follows Pillow's algorithm with coarser fixed-point weights: results are within two levels of
Pillow's, nearly all of them equal, at a fifth of the time. It works on the calling thread alone, whatever torch's
number of threads. torch is imported when the first image is resized, so that counting tiles does not load it.

Shapes: H and W an image's height and width, N tiles, S a tile's side, C = 3 colours.
"""

import numpy as np


def resize(pixels_HWC: np.ndarray, width: int, height: int) -> np.ndarray:
    """An image at another size, whatever its aspect ratio, as Pillow's `resize` with its default filter.

    Args:
        pixels_HWC: uint8[H, W, 3].

    Returns:
        uint8[height, width, 3], contiguous; the image itself if it has that size already.
    """
    old_height, old_width, _ = pixels_HWC.shape
    if _vertical_first(old_width, old_height, width, height):
        return _interpolate(_interpolate(pixels_HWC, old_width, height), width, height)
    return _interpolate(pixels_HWC, width, height)


def fill_tiles(tiles_NSSC: np.ndarray, pixels_HWC: np.ndarray, columns: int, rows: int) -> None:
    """Write an image, resized to a grid of tiles, into `tiles_NSSC` in reading order.

    Args:
        tiles_NSSC: uint8[N, S, S, 3], filled. With one tile more than the grid has, the last one shows the whole image.
        pixels_HWC: uint8[H, W, 3].
    """
    side = tiles_NSSC.shape[1]
    grid_HWC = resize(pixels_HWC, columns * side, rows * side)
    for number in range(columns * rows):
        top, left = (side * place for place in divmod(number, columns))
        tiles_NSSC[number] = grid_HWC[top : top + side, left : left + side]
    if len(tiles_NSSC) > columns * rows:
        tiles_NSSC[-1] = resize(pixels_HWC, side, side)


def _vertical_first(old_width: int, old_height: int, width: int, height: int) -> bool:
    """Whether Pillow resizes columns before rows: since version 13 where the height loses much more than the width.

    The order shows: between the two passes values are cut off at 0 and 255, which at hard edges moves the result by
    up to thirty levels. Source: Pillow 13.0's results for 90,000 random sizes, without an exception.
    """
    return height < old_height and old_height - height > 2 * (old_width - width)


def _interpolate(pixels_HWC: np.ndarray, width: int, height: int) -> np.ndarray:
    if pixels_HWC.shape[:2] == (height, width):
        return pixels_HWC
    import torch

    image_HWC = torch.from_numpy(np.require(pixels_HWC, np.uint8, ["C", "W"]))
    # Unsqueezed first: only then has the view the strides by which torch knows channels-last images. It would turn
    # any other into planes, and the result would have to be turned back.
    image_1CHW = image_HWC.unsqueeze(0).permute(0, 3, 1, 2)
    resized_1CHW = torch.nn.functional.interpolate(image_1CHW, size=(height, width), mode="bicubic", antialias=True)
    return resized_1CHW.permute(0, 2, 3, 1)[0].numpy()
