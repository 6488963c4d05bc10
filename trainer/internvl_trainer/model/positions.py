"""Learned positions of a vision encoder for tiles of another size. torch only.

Shapes: P positions (class token first), H hidden, A x A new patch grid, B x B old one.
"""

import torch


def resize_positions(position_PH: torch.Tensor, side_from: int, side_to: int) -> torch.Tensor:
    """Positions of a `side_from` x `side_from` patch grid, resized bicubically to `side_to` x `side_to`.

    The values are those of torch's bicubic interpolation without aligned corners, as in the published modelling code,
    taken in float32. It is written as two matrix products because their gradient is the same bits on every run and
    every tensor-parallel rank, which that of torch's own kernel is not on CUDA.

    Args:
        position_PH: [1 + side_from^2, H], any floating dtype; row 0 is the class token's and stays as it is.
        side_from: patches along one side of the grid that the positions are for.
        side_to: patches along one side of the grid that they are wanted for.

    Returns:
        [1 + side_to^2, H] in the dtype of `position_PH`, differentiable; itself where the sides are equal.

    Raises:
        ValueError: the positions are not those of such a grid.
    """
    if position_PH.size(0) != 1 + side_from**2:
        raise ValueError(
            f"{position_PH.size(0)} positions are not 1 + {side_from} x {side_from} = {1 + side_from**2}: give the "
            "side, in patches, of the grid that they were learned for"
        )
    if side_from == side_to:
        return position_PH
    bicubic_AB = _bicubic(side_from, side_to, position_PH.device)
    grid_BBH = position_PH[1:].float().reshape(side_from, side_from, -1)
    resized_AAH = torch.einsum("ab,cd,bdh->ach", bicubic_AB, bicubic_AB, grid_BBH)
    return torch.cat([position_PH[:1], resized_AAH.flatten(0, 1).to(position_PH.dtype)])


@torch.no_grad()
def _bicubic(side_from: int, side_to: int, device: torch.device) -> torch.Tensor:
    """Weights [side_to, side_from] of bicubic interpolation along one axis: what it makes of each unit vector."""
    unit_1BB1 = torch.eye(side_from, device=device)[None, :, :, None]
    resized_1BA1 = torch.nn.functional.interpolate(
        unit_1BB1, size=(side_to, 1), mode="bicubic", align_corners=False, antialias=False
    )
    return resized_1BA1[0, :, :, 0].T
