"""Sharing the tiles of a pack, instead of a vision encoder's weights, among tensor-parallel ranks.

Shapes: N tiles of the pack, M tiles of this rank, S positions, H hidden.
"""

from dataclasses import dataclass

import torch
from megatron.core.tensor_parallel import gather_from_sequence_parallel_region


@dataclass(frozen=True)
class TileShare:
    """This rank's block of a pack's tiles.

    All blocks are equally long, so that all ranks run the same graph and exchange the same shapes however few tiles
    there are; the last ones are filled up, with tiles whose features are dropped and whose gradients are zero.

    Attributes:
        tiles: N.
        group: the ranks that share them; None where this rank sees all tiles.
    """

    tiles: int
    group: torch.distributed.ProcessGroup | None

    @property
    def length(self) -> int:
        """M, for every rank."""
        return self.tiles if self.group is None else -(-self.tiles // self.group.size())

    def mine(self, x: torch.Tensor, axis: int = 0, fill: float = 0.0) -> torch.Tensor:
        """This rank's block of something that is N long along `axis`, made M long with `fill`."""
        if self.group is None:
            return x
        first = min(self.group.rank() * self.length, self.tiles)
        own = x.narrow(axis, first, min(self.length, self.tiles - first))
        missing = list(x.shape)
        missing[axis] = self.length - own.size(axis)
        return torch.cat([own, x.new_full(missing, fill)], axis) if missing[axis] else own

    def gather(self, x_SMH: torch.Tensor) -> torch.Tensor:
        """Features [S, N, H] of all tiles on all ranks, from each rank's [S, M, H].

        In the backward pass each rank takes the gradient of its own tiles: what follows runs on all ranks alike, so
        each of them has the whole gradient.
        """
        if self.group is None:
            return x_SMH
        gathered = gather_from_sequence_parallel_region(
            x_SMH.transpose(0, 1), tensor_parallel_output_grad=False, group=self.group
        )
        return gathered[: self.tiles].transpose(0, 1)
