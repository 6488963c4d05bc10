"""The reference: one dense softmax in float32 under an explicit block-diagonal mask. Right, plain and slow.

Shapes: T tokens of a pack, L segments, S sequence, B batch, N query heads, K key-value heads, D head dim.
"""

import torch
from megatron.core.packed_seq_params import PackedSeqParams


class Reference:
    """What every other back-end is compared with. Its memory grows with the square of the pack."""

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
        lengths = segments.cu_seqlens_q.diff()
        segments_L = torch.arange(len(lengths), device=lengths.device)
        segment_T = torch.repeat_interleave(segments_L, lengths, output_size=len(q_TND))
        visible_TT = segment_T[:, None] == segment_T[None, :]
        return _softmax_attention(q_TND[None], k_TKD[None], v_TKD[None], visible_TT, causal=causal, scale=scale)[0]

    def dense(
        self, q_BSND: torch.Tensor, k_BSKD: torch.Tensor, v_BSKD: torch.Tensor, *, causal: bool, scale: float
    ) -> torch.Tensor:
        """See `Kernel.dense`."""
        length = q_BSND.size(1)
        visible_SS = torch.ones(length, length, dtype=torch.bool, device=q_BSND.device)
        return _softmax_attention(q_BSND, k_BSKD, v_BSKD, visible_SS, causal=causal, scale=scale)


def _softmax_attention(
    q_BSND: torch.Tensor,
    k_BSKD: torch.Tensor,
    v_BSKD: torch.Tensor,
    visible_SS: torch.Tensor,
    *,
    causal: bool,
    scale: float,
) -> torch.Tensor:
    group = q_BSND.size(2) // k_BSKD.size(2)
    q_BNSD = q_BSND.float().transpose(1, 2)
    k_BNSD, v_BNSD = (x.float().repeat_interleave(group, dim=2).transpose(1, 2) for x in (k_BSKD, v_BSKD))
    if causal:
        visible_SS = visible_SS.tril()
    scores_BNSS = (q_BNSD @ k_BNSD.transpose(2, 3) * scale).masked_fill(~visible_SS, float("-inf"))
    return (scores_BNSS.softmax(dim=-1) @ v_BNSD).transpose(1, 2).to(q_BSND.dtype)
