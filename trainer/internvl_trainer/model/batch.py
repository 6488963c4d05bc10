"""One pack as tensors on the training device: what a forward pass takes.

Shapes: S tokens of the pack, K supervised ones, N tiles, side px.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from megatron.core.packed_seq_params import PackedSeqParams
from torch.nn.functional import pad

from internvl_trainer.model.droppath import DropPathPlace
from internvl_trainer.model.transfer import sent

IGNORED = -100
"""Label of a position that is not supervised."""


@dataclass(frozen=True)
class MicroBatch:
    """A pack on the device.

    tokens_S: int64.
    supervised_K: int64, positions that have a target, ascending.
    targets_K: int64, their targets.
    weights_K: float32, their loss weights, which `loss_scale` multiplies: one over the loss's denominator.
    cu_seqlens: int32 [segments + 1].
    image_positions: int64, where `<IMG_CONTEXT>` placeholders are.
    tiles_NPPC: uint8 [N, side, side, 3] on the first pipeline stage, None on the others.
    """

    tokens_S: torch.Tensor
    supervised_K: torch.Tensor
    targets_K: torch.Tensor
    weights_K: torch.Tensor
    cu_seqlens: torch.Tensor
    longest: int
    image_positions: torch.Tensor
    tiles_NPPC: torch.Tensor | None
    place: DropPathPlace | None = None
    loss_scale: float = 1.0

    @classmethod
    def of(
        cls,
        tokens_S: np.ndarray,
        labels_S: np.ndarray,
        weights_S: np.ndarray,
        cu_seqlens: np.ndarray,
        *,
        image_token: int,
        device: torch.device,
        tiles_NPPC: np.ndarray | None = None,
    ) -> "MicroBatch":
        """A pack from host memory.

        What depends on its values, lengths and positions, is found here: asking the device would wait for it.

        Args:
            labels_S: the target of each position, IGNORED where there is none.
            image_token: id of `<IMG_CONTEXT>`.
            tokens_S, weights_S, cu_seqlens, tiles_NPPC: see the class.
        """
        supervised_K = np.flatnonzero(labels_S != IGNORED)
        on_host = (
            tokens_S,
            supervised_K,
            labels_S[supervised_K],
            weights_S[supervised_K],
            cu_seqlens,
            np.flatnonzero(tokens_S == image_token),
        )
        tokens, supervised, targets, weights, bounds, images = (
            sent(torch.from_numpy(array), device) for array in on_host
        )
        return cls(
            tokens_S=tokens,
            supervised_K=supervised,
            targets_K=targets,
            weights_K=weights,
            cu_seqlens=bounds,
            longest=int(np.diff(cu_seqlens).max()),
            image_positions=images,
            tiles_NPPC=None if tiles_NPPC is None else sent(torch.from_numpy(tiles_NPPC), device),
        )

    def with_tiles(self, tiles_NPPC: torch.Tensor) -> "MicroBatch":
        """The same pack with these tiles."""
        return replace(self, tiles_NPPC=tiles_NPPC)

    def padded(self, multiple: int) -> "MicroBatch":
        """The same pack, as long as a multiple of `multiple`.

        What is added is a segment of its own without supervised tokens: no token of the pack sees it, and it takes part
        in no loss.
        """
        missing = -len(self.tokens_S) % multiple
        if not missing:
            return self
        return replace(
            self,
            tokens_S=pad(self.tokens_S, (0, missing)),
            cu_seqlens=torch.cat([self.cu_seqlens, self.cu_seqlens[-1:] + missing]),
            longest=max(self.longest, missing),
        )

    @property
    def packed(self) -> PackedSeqParams:
        """The segments, in megatron.core's form."""
        return PackedSeqParams(
            qkv_format="thd",
            cu_seqlens_q=self.cu_seqlens,
            cu_seqlens_kv=self.cu_seqlens,
            max_seqlen_q=self.longest,
            max_seqlen_kv=self.longest,
        )
