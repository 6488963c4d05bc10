"""Three ways from the bytes of an image to its tiles: ours, the released trainer's, and torchvision's.

Shapes: N tiles, S a tile's side, H and W an image's height and width, C = 3 colours.
"""

import io
from collections.abc import Callable, Sequence

import numpy as np
import torch
from PIL import Image
from torchvision.io import ImageReadMode, decode_jpeg, encode_jpeg
from torchvision.transforms import Compose, InterpolationMode, Lambda, Normalize, Resize, ToTensor
from torchvision.transforms.v2 import functional

from internvl_trainer.data.pixels import jpeg
from internvl_trainer.data.pixels.decode import decode
from internvl_trainer.data.pixels.resize import fill_tiles
from internvl_trainer.data.tiling import choose_grid
from internvl_trainer.model.pixels import IMAGENET_MEAN, IMAGENET_STD

SIDE = 448

# The resize finds tiles that have their size already.
_PER_TILE = Compose(
    [
        Lambda(lambda tile: tile.convert("RGB") if tile.mode != "RGB" else tile),
        Resize((SIDE, SIDE), interpolation=InterpolationMode.BICUBIC),
        ToTensor(),
        Normalize(IMAGENET_MEAN, IMAGENET_STD),
    ]
)

Pipeline = Callable[[bytes, Sequence[int]], object]
"""From the bytes of an image and a JPEG quality for each tile, none if tiles stay as they are."""


def ours(data: bytes, qualities: Sequence[int]) -> np.ndarray:
    """uint8[N, S, S, C]: what leaves the loader; the device normalises."""
    pixels_HWC, width, height = decode(data)
    columns, rows = choose_grid(width, height)
    tiles_NSSC = np.empty((columns * rows + 1, SIDE, SIDE, 3), dtype=np.uint8)
    fill_tiles(tiles_NSSC, pixels_HWC, columns, rows)
    if qualities:
        jpeg.round_trip(tiles_NSSC, qualities)
    return tiles_NSSC


def with_pillow(data: bytes, qualities: Sequence[int]) -> torch.Tensor:
    """float32[N, C, S, S], in the released trainer's steps: Pillow, then a chain of transforms for each tile."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    columns, rows = choose_grid(*image.size)
    grid = image.resize((columns * SIDE, rows * SIDE))
    corners = [(column * SIDE, row * SIDE) for row in range(rows) for column in range(columns)]
    tiles = [grid.crop((left, top, left + SIDE, top + SIDE)) for left, top in corners]
    tiles.append(image.resize((SIDE, SIDE)))
    if qualities:
        tiles = [_through_jpeg(tile, quality) for tile, quality in zip(tiles, qualities, strict=True)]
    return torch.stack([_PER_TILE(tile) for tile in tiles])


def with_torchvision(data: bytes, qualities: Sequence[int]) -> torch.Tensor:
    """float32[N, C, S, S] by torchvision v2: all tiles at once where it can."""
    image_CHW = decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), mode=ImageReadMode.RGB)
    columns, rows = choose_grid(image_CHW.shape[2], image_CHW.shape[1])
    grid_CHW = _resized(image_CHW, rows * SIDE, columns * SIDE)
    tiles_NCSS = grid_CHW.reshape(3, rows, SIDE, columns, SIDE).permute(1, 3, 0, 2, 4).reshape(-1, 3, SIDE, SIDE)
    tiles_NCSS = torch.cat([tiles_NCSS, _resized(image_CHW, SIDE, SIDE)[None]])
    if qualities:
        pairs = zip(tiles_NCSS, qualities, strict=True)
        tiles_NCSS = torch.stack([decode_jpeg(encode_jpeg(tile.contiguous(), quality)) for tile, quality in pairs])
    scaled_NCSS = functional.to_dtype(tiles_NCSS, torch.float32, scale=True)
    normal_NCSS: torch.Tensor = functional.normalize(scaled_NCSS, list(IMAGENET_MEAN), list(IMAGENET_STD))
    return normal_NCSS


PIPELINES: dict[str, Pipeline] = {
    "ours: uint8 tiles": ours,
    "(a) Pillow, float per tile": with_pillow,
    "(b) torchvision v2": with_torchvision,
}


def _through_jpeg(tile: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    tile.save(buffer, format="JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


def _resized(image_CHW: torch.Tensor, height: int, width: int) -> torch.Tensor:
    size = [height, width]
    resized_CHW: torch.Tensor = functional.resize(
        image_CHW, size, interpolation=InterpolationMode.BICUBIC, antialias=True
    )
    return resized_CHW
