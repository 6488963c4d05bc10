"""The recipe's only augmentation: each tile is written as JPEG, at a quality of its own, and read again.

Shapes: N tiles, S a tile's side, C = 3 colours.
"""

import io
from collections.abc import Sequence

import numpy as np
import simplejpeg
from PIL import Image

QUALITIES = (75, 100)
"""Range, both ends included, of the quality."""


def round_trip(tiles_NSSC: np.ndarray, qualities: Sequence[int]) -> None:
    """Replace every tile by what is left of it after JPEG at its quality, with colours at half the resolution.

    Pillow writes: libjpeg-turbo's simple interface, which other libraries offer, takes a coarser transform below
    quality 96. Reading is exact either way, and goes straight into the tile.

    Args:
        tiles_NSSC: uint8[N, S, S, 3], contiguous; changed in place.
        qualities: one for each tile, 1..100.
    """
    for tile_SSC, quality in zip(tiles_NSSC, qualities, strict=True):
        written = io.BytesIO()
        Image.fromarray(tile_SSC).save(written, format="JPEG", quality=int(quality))
        simplejpeg.decode_jpeg(written.getbuffer(), fastdct=False, fastupsample=False, buffer=tile_SSC)
