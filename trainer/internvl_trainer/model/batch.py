"""One pack as tensors on the training device: what a forward pass takes.

Shapes: S tokens of the pack, N tiles, side px.
"""

from dataclasses import dataclass, replace

import torch
from megatron.core.packed_seq_params import PackedSeqParams
from torch.nn.functional import pad

from internvl_trainer.model.droppath import DropPathPlace

IGNORED = -100
"""Label of a position that is not supervised."""


@dataclass(frozen=True)
class MicroBatch:
    """A pack on the device.

    tokens_S, labels_S: int64; labels_S[t] is the target of position t, IGNORED where there is none.
    weights_S: float32 loss weights, which `loss_scale` multiplies: one over the loss's denominator.
    cu_seqlens: int32 [segments + 1].
    image_positions: int64, where `<IMG_CONTEXT>` placeholders are.
    tiles_NPPC: uint8 [N, side, side, 3] on the first pipeline stage, None on the others.
    """

    tokens_S: torch.Tensor
    labels_S: torch.Tensor
    weights_S: torch.Tensor
    cu_seqlens: torch.Tensor
    longest: int
    image_positions: torch.Tensor
    tiles_NPPC: torch.Tensor | None
    place: DropPathPlace | None = None
    loss_scale: float = 1.0

    def with_tiles(self, tiles_NPPC: torch.Tensor) -> "MicroBatch":
        """The same pack with these tiles."""
        return replace(self, tiles_NPPC=tiles_NPPC)

    def padded(self, multiple: int) -> "MicroBatch":
        """The same pack, as long as a multiple of `multiple`.

        What is added is a segment of its own, without labels and weights: no token of the pack sees it, and it takes
        part in no loss.
        """
        missing = -len(self.tokens_S) % multiple
        if not missing:
            return self
        return replace(
            self,
            tokens_S=pad(self.tokens_S, (0, missing)),
            labels_S=pad(self.labels_S, (0, missing), value=IGNORED),
            weights_S=pad(self.weights_S, (0, missing)),
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
