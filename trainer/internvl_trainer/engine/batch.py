"""From packs in host memory to micro-batches on the device; tiles travel once per tensor-parallel group.

Shapes: S tokens, N tiles, side px.
"""

import numpy as np
import torch

from internvl_trainer.data.stream import Pack
from internvl_trainer.model.batch import MicroBatch
from internvl_trainer.model.droppath import DropPathPlace


def to_device(
    pack: Pack, image_token: int, device: torch.device, place: DropPathPlace | None, loss_scale: float = 1.0
) -> MicroBatch:
    """A pack's tokens on the device, its tiles too where it carries them; `loss_scale` multiplies its loss weights."""
    tokens_S = torch.from_numpy(pack.tokens_S)
    tiles = pack.tiles_NHWC
    return MicroBatch(
        tokens_S=tokens_S.to(device),
        labels_S=torch.from_numpy(pack.labels_S).to(device),
        weights_S=torch.from_numpy(pack.weights_S).to(device),
        cu_seqlens=torch.from_numpy(pack.cu_seqlens).to(device),
        longest=int(np.diff(pack.cu_seqlens).max()),
        image_positions=(tokens_S == image_token).nonzero().squeeze(1).to(device),
        tiles_NPPC=None if tiles is None else torch.from_numpy(tiles).to(device),
        place=place,
        loss_scale=loss_scale,
    )


def share_tiles(
    tiles_NPPC: torch.Tensor | None, count: int, side: int, group: torch.distributed.ProcessGroup, device: torch.device
) -> torch.Tensor:
    """The tiles of one pack on all ranks of a tensor-parallel group, sent as uint8 by the rank that decoded them.

    Args:
        tiles_NPPC: on the group's first rank [count, side, side, 3]; elsewhere ignored.
        count: number of tiles, known to all ranks from the pack's index.
    """
    if tiles_NPPC is None or group.rank() != 0:
        tiles_NPPC = torch.empty(count, side, side, 3, dtype=torch.uint8, device=device)
    if group.size() > 1 and count:
        torch.distributed.broadcast(tiles_NPPC, group=group, group_src=0)
    return tiles_NPPC
