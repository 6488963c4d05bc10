"""The core attention that megatron.core's layers are given, around any of our kernels.

Shapes: T tokens of a pack, S sequence, B batch, N query heads and K key-value heads of this rank, D head dim.
"""

import math
from typing import Protocol

import torch
from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.transformer_config import TransformerConfig


class Kernel(Protocol):
    """One implementation of softmax attention without dropout. N is a multiple of K: grouped-query attention."""

    def packed(
        self,
        q_TND: torch.Tensor,
        k_TKD: torch.Tensor,
        v_TKD: torch.Tensor,
        segments: PackedSeqParams,
        *,
        causal: bool,
        scale: float,
    ) -> torch.Tensor:
        """Attention inside each segment of a pack, [T, N, D]; a token sees its own segment only."""
        ...

    def dense(
        self, q_BSND: torch.Tensor, k_BSKD: torch.Tensor, v_BSKD: torch.Tensor, *, causal: bool, scale: float
    ) -> torch.Tensor:
        """Attention over each whole sequence of a batch, [B, S, N, D]."""
        ...


class SegmentAttention(MegatronModule):
    """Softmax attention without dropout; a token sees its own segment only (its past only, where causal)."""

    def __init__(
        self,
        config: TransformerConfig,
        layer_number: int,
        attn_mask_type: AttnMaskType,
        attention_type: str,
        cp_comm_type: str | None = None,
        softmax_scale: float | None = None,
        pg_collection: object | None = None,
        *,
        kernel: Kernel,
    ):
        super().__init__(config)
        self.kernel = kernel
        self.causal = attn_mask_type is AttnMaskType.causal
        self.scale = softmax_scale if softmax_scale is not None else 1 / math.sqrt(config.kv_channels)

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        attn_mask_type: AttnMaskType | None = None,
        attention_bias: torch.Tensor | None = None,
        packed_seq_params: PackedSeqParams | None = None,
    ) -> torch.Tensor:
        """Attention of one layer.

        Args:
            query: [T, N, D] with `packed_seq_params`, else [S, B, N, D]; key and value alike with K heads.
            attention_mask: must be None; the mask follows from segments and from the layer's mask type.

        Returns:
            [T, N*D] or [S, B, N*D].
        """
        if attention_mask is not None or attention_bias is not None:
            raise ValueError("SegmentAttention derives its mask from segments; pass no attention mask and no bias")
        if packed_seq_params is not None:
            out_TND = self.kernel.packed(query, key, value, packed_seq_params, causal=self.causal, scale=self.scale)
            return out_TND.flatten(1)
        q_BSND, k_BSKD, v_BSKD = (x.transpose(0, 1) for x in (query, key, value))
        out_BSND = self.kernel.dense(q_BSND, k_BSKD, v_BSKD, causal=self.causal, scale=self.scale)
        return out_BSND.transpose(0, 1).flatten(2)
