"""From packs in host memory to micro-batches on the device; tiles travel once per tensor-parallel group.

Shapes: S tokens, N tiles, side px.
"""

from dataclasses import replace

import torch

from internvl_trainer.data.pack import Pack
from internvl_trainer.model.batch import MicroBatch
from internvl_trainer.model.droppath import DropPathPlace


def to_device(
    pack: Pack, image_token: int, device: torch.device, place: DropPathPlace | None, loss_scale: float = 1.0
) -> MicroBatch:
    """A pack's tokens on the device, its tiles too where it carries them; `loss_scale` multiplies its loss weights."""
    batch = MicroBatch.of(
        pack.tokens_S,
        pack.labels_S,
        pack.weights_S,
        pack.cu_seqlens,
        image_token=image_token,
        device=device,
        tiles_NPPC=pack.tiles_NHWC,
    )
    return replace(batch, place=place, loss_scale=loss_scale)


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
