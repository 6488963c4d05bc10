"""flash-attn 3: the Hopper kernels of the `flash_attn_3` package, whose module is `flash_attn_interface`.

Shapes: T tokens of a pack, S sequence, B batch, N query heads, K key-value heads, D head dim.
Source: hopper/flash_attn_interface.py of flash-attn 2.8.3 and later, which return the output alone.
"""

import torch
from megatron.core.packed_seq_params import PackedSeqParams

from internvl_trainer.model.attention.loading import load


class FlashAttention3:
    """flash-attn 3's functions for packs and for batches; both share key-value heads among query heads themselves."""

    def __init__(self) -> None:
        module = load("flash-attention-3", "flash_attn_interface")
        self._varlen = module.flash_attn_varlen_func
        self._fixed = module.flash_attn_func

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
        """See `Kernel.packed`. Past the lengths the arguments differ from flash-attn 2's, so they go by name."""
        out_TND: torch.Tensor = self._varlen(
            q_TND,
            k_TKD,
            v_TKD,
            cu_seqlens_q=segments.cu_seqlens_q,
            cu_seqlens_k=segments.cu_seqlens_kv,
            max_seqlen_q=segments.max_seqlen_q,
            max_seqlen_k=segments.max_seqlen_kv,
            softmax_scale=scale,
            causal=causal,
        )
        return out_TND

    def dense(
        self, q_BSND: torch.Tensor, k_BSKD: torch.Tensor, v_BSKD: torch.Tensor, *, causal: bool, scale: float
    ) -> torch.Tensor:
        """See `Kernel.dense`."""
        out_BSND: torch.Tensor = self._fixed(q_BSND, k_BSKD, v_BSKD, softmax_scale=scale, causal=causal)
        return out_BSND
