"""flash-attn 2 for Ampere GPUs and later, and flash-attn 3 for Hopper: two packages with the same two functions.

Shapes: T tokens of a pack, S sequence, B batch, N query heads, K key-value heads, D head dim.
Sources: flash_attn/flash_attn_interface.py, release 2.8; hopper/flash_attn_interface.py of 2.8.3 and later, which
return the output alone.
"""

import torch
from megatron.core.packed_seq_params import PackedSeqParams

from internvl_trainer.model.attention.loading import load
from internvl_trainer.model.attention.selection import Backend


class FlashAttention:
    """One package's functions for packs and for batches; both share key-value heads among query heads themselves.

    Args:
        backend: which of the two, for what is said where it cannot be loaded.
        module: that holds its functions.
    """

    def __init__(self, backend: Backend, module: str) -> None:
        package = load(backend, module)
        self._varlen = package.flash_attn_varlen_func
        self._fixed = package.flash_attn_func

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
        """See `Kernel.packed`. Past the lengths the two differ in the order of arguments, so they go by name."""
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
