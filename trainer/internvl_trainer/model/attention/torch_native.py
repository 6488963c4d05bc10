"""torch's own attention: its variable-length flash kernel on CUDA, `scaled_dot_product_attention` elsewhere.

Shapes: T tokens of a pack, S sequence, B batch, N query heads, K key-value heads, D head dim.
"""

import torch
from megatron.core.packed_seq_params import PackedSeqParams

from internvl_trainer.model.attention.selection import flash_fits


class Torch:
    """Needs nothing but torch. Without the flash kernel (CPU, float32) it loops over the segments of a pack."""

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
        """See `Kernel.packed`."""
        if _has_varlen_kernel(q_TND):
            return _varlen(q_TND, k_TKD, v_TKD, segments, causal=causal, scale=scale)
        lengths = segments.cu_seqlens_q.diff().tolist()
        outputs = []
        for segment in zip(*(torch.split(x, lengths) for x in (q_TND, k_TKD, v_TKD)), strict=True):
            q_1TND, k_1TKD, v_1TKD = (x.unsqueeze(0) for x in segment)
            outputs.append(self.dense(q_1TND, k_1TKD, v_1TKD, causal=causal, scale=scale)[0])
        return torch.cat(outputs)

    def dense(
        self, q_BSND: torch.Tensor, k_BSKD: torch.Tensor, v_BSKD: torch.Tensor, *, causal: bool, scale: float
    ) -> torch.Tensor:
        """See `Kernel.dense`."""
        q_BNSD, k_BKSD, v_BKSD = (x.transpose(1, 2) for x in (q_BSND, k_BSKD, v_BSKD))
        out_BNSD = torch.nn.functional.scaled_dot_product_attention(
            q_BNSD, k_BKSD, v_BKSD, is_causal=causal, scale=scale, enable_gqa=q_BNSD.size(1) != k_BKSD.size(1)
        )
        return out_BNSD.transpose(1, 2)


def _has_varlen_kernel(q_TND: torch.Tensor) -> bool:
    if not q_TND.is_cuda:
        return False
    capability = torch.cuda.get_device_capability(q_TND.device)
    return flash_fits(capability=capability, dtype=q_TND.dtype, head_dim=q_TND.size(-1)) is None


def _varlen(
    q_TND: torch.Tensor,
    k_TKD: torch.Tensor,
    v_TKD: torch.Tensor,
    segments: PackedSeqParams,
    *,
    causal: bool,
    scale: float,
) -> torch.Tensor:
    """The variable-length flash kernel; like flash-attn's, it shares key-value heads among query heads by itself.

    Releases of torch after 2.11 want to be told so, by `enable_gqa`.
    """
    from torch.nn.attention.varlen import varlen_attn

    out_TND = varlen_attn(
        q_TND,
        k_TKD,
        v_TKD,
        segments.cu_seqlens_q,
        segments.cu_seqlens_kv,
        segments.max_seqlen_q,
        segments.max_seqlen_kv,
        scale=scale,
        window_size=(-1, 0) if causal else (-1, -1),
    )
    assert isinstance(out_TND, torch.Tensor)  # a tuple only where auxiliary outputs are asked for
    return out_TND
