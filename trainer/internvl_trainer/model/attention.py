"""Core attention for megatron.core layers: block-diagonal over the segments of a pack, or dense over a batch.

Shapes: T tokens of a pack, S sequence, B batch, N query heads and K key-value heads of this rank, D head dim.
"""

import math

import torch
from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.transformer_config import TransformerConfig


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
    ):
        super().__init__(config)
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
            out_TND = attend_segments(query, key, value, packed_seq_params, causal=self.causal, scale=self.scale)
            return out_TND.flatten(1)
        q_BNSD, k_BKSD, v_BKSD = (x.permute(1, 2, 0, 3) for x in (query, key, value))
        out_BNSD = _attend(q_BNSD, k_BKSD, v_BKSD, causal=self.causal, scale=self.scale)
        return out_BNSD.permute(2, 0, 1, 3).flatten(2)


def attend_segments(
    q_TND: torch.Tensor, k_TKD: torch.Tensor, v_TKD: torch.Tensor, pack: PackedSeqParams, *, causal: bool, scale: float
) -> torch.Tensor:
    """Attention inside each segment of a pack: one variable-length kernel on CUDA, a loop over segments elsewhere."""
    if q_TND.is_cuda:
        return _attend_varlen(q_TND, k_TKD, v_TKD, pack, causal=causal, scale=scale)
    lengths = pack.cu_seqlens_q.diff().tolist()
    segments = zip(*(torch.split(x, lengths) for x in (q_TND, k_TKD, v_TKD)), strict=True)
    outputs = []
    for segment in segments:
        q_1NTD, k_1KTD, v_1KTD = (x.transpose(0, 1).unsqueeze(0) for x in segment)
        outputs.append(_attend(q_1NTD, k_1KTD, v_1KTD, causal=causal, scale=scale)[0].transpose(0, 1))
    return torch.cat(outputs)


def _attend(
    q_BNSD: torch.Tensor, k_BKSD: torch.Tensor, v_BKSD: torch.Tensor, *, causal: bool, scale: float
) -> torch.Tensor:
    return torch.nn.functional.scaled_dot_product_attention(
        q_BNSD, k_BKSD, v_BKSD, is_causal=causal, scale=scale, enable_gqa=q_BNSD.size(1) != k_BKSD.size(1)
    )


def _attend_varlen(
    q_TND: torch.Tensor, k_TKD: torch.Tensor, v_TKD: torch.Tensor, pack: PackedSeqParams, *, causal: bool, scale: float
) -> torch.Tensor:
    """torch's own variable-length flash attention; it wants as many key-value heads as query heads."""
    from torch.nn.attention.varlen import varlen_attn

    repeat = q_TND.size(1) // k_TKD.size(1)
    out_TND = varlen_attn(
        q_TND,
        k_TKD.repeat_interleave(repeat, dim=1),
        v_TKD.repeat_interleave(repeat, dim=1),
        pack.cu_seqlens_q,
        pack.cu_seqlens_kv,
        pack.max_seqlen_q,
        pack.max_seqlen_kv,
        scale=scale,
        window_size=(-1, 0) if causal else (-1, -1),
    )
    assert isinstance(out_TND, torch.Tensor)  # a tuple only where auxiliary outputs are asked for
    return out_TND
