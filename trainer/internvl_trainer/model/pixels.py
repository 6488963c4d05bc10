"""What happens to pixels before the vision encoder and to its patch grid after it. torch only.

Shapes: N tiles, H x W patch grid, C channels.
"""

from functools import cache

import torch

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def normalise_tiles(tiles_NPPC: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """uint8 RGB tiles [N, side, side, 3] -> ImageNet-normalised [N, 3, side, side] in `dtype`, on the tiles' device."""
    mean_3, std_3 = _imagenet(tiles_NPPC.device)
    return ((tiles_NPPC.float() / 255 - mean_3) / std_3).permute(0, 3, 1, 2).to(dtype)


@cache
def _imagenet(device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and deviation per colour, sent to each device once: the copy waits for the device."""
    return torch.tensor(IMAGENET_MEAN, device=device), torch.tensor(IMAGENET_STD, device=device)


def pixel_unshuffle(x_NHWC: torch.Tensor, ratio: float = 0.5) -> torch.Tensor:
    """Move blocks of neighbouring patches into the channels (version "v2" of the published configurations).

    Args:
        x_NHWC: features of a patch grid, any dtype; H and W must be multiples of 1/ratio.
        ratio: side of the new grid over side of the old one.

    Returns:
        [N, H*ratio, W*ratio, C/ratio^2]; the channels of one block are its patches in row-major order, all channels of
        one patch being contiguous.

    Raises:
        ValueError: the grid does not divide into blocks.
    """
    block = round(1 / ratio)
    n, height, width, channels = x_NHWC.shape
    if height % block or width % block:
        raise ValueError(f"a {height}x{width} patch grid does not divide into {block}x{block} blocks")
    blocks = x_NHWC.reshape(n, height // block, block, width // block, block, channels)
    return blocks.permute(0, 1, 3, 2, 4, 5).reshape(n, height // block, width // block, block * block * channels)
