"""Normalisation modules in the form that megatron.core's layer specs ask for.

Shapes: S sequence, B batch, N heads of this rank, D head dim.
"""

from typing import Any

import torch
from megatron.core.tensor_parallel.layers import set_tensor_model_parallel_attributes
from megatron.core.transformer.transformer_config import TransformerConfig
from megatron.core.transformer.utils import ensure_metadata_has_dp_cp_group, make_sharded_tensors_for_checkpoint


def norm(config: TransformerConfig, hidden_size: int, eps: float) -> torch.nn.Module:
    """LayerNorm with bias or RMSNorm without, as `config.normalization` says; replicated over tensor-parallel ranks."""
    kind = {"LayerNorm": torch.nn.LayerNorm, "RMSNorm": torch.nn.RMSNorm}[config.normalization]
    module = kind(hidden_size, eps=eps, device=torch.cuda.current_device(), dtype=config.params_dtype)
    for parameter in module.parameters():
        parameter.sequence_parallel = config.sequence_parallel
    return module


class FullWidthRMSNorm(torch.nn.Module):
    """RMSNorm over all heads together, on a tensor whose heads are split over tensor-parallel ranks.

    InternViT-6B normalises q and k over the whole hidden width before it is seen as heads; a per-head norm is a
    different function. Each rank keeps the weight of its own heads; the mean square is taken over the whole width,
    which is the model's.
    """

    def __init__(
        self, config: TransformerConfig, hidden_size: int, eps: float, *, tp_group: torch.distributed.ProcessGroup
    ):
        super().__init__()
        self.tp_group = tp_group
        self.eps = eps
        self.width = config.hidden_size  # that of the true heads: the slots that pad their number hold zeros
        heads = config.num_attention_heads // self.tp_group.size()
        self.weight = torch.nn.Parameter(
            torch.ones(heads * hidden_size, device=torch.cuda.current_device(), dtype=config.params_dtype)
        )
        set_tensor_model_parallel_attributes(self.weight, is_parallel=True, dim=0, stride=1)

    def forward(self, x_SBND: torch.Tensor) -> torch.Tensor:
        """The same shape and dtype; statistics in float32."""
        x_SBW = x_SBND.flatten(2).float()
        square_sum = x_SBW.pow(2).sum(-1, keepdim=True)
        if self.tp_group.size() > 1:
            square_sum = _SumOverRanks.apply(square_sum, self.tp_group)  # type: ignore[no-untyped-call]
        x_SBW = x_SBW * torch.rsqrt(square_sum / self.width + self.eps)
        return (x_SBW.to(x_SBND.dtype) * self.weight).view_as(x_SBND)

    def sharded_state_dict(
        self, prefix: str = "", sharded_offsets: tuple[Any, ...] = (), metadata: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """The weight, cut along its only axis."""
        metadata = ensure_metadata_has_dp_cp_group(metadata)
        return make_sharded_tensors_for_checkpoint(
            self.state_dict(keep_vars=True),
            prefix,
            {"weight": 0},
            sharded_offsets,
            tp_group=self.tp_group,
            dp_cp_group=metadata["dp_cp_group"],
        )


class _SumOverRanks(torch.autograd.Function):
    """All-reduce whose backward all-reduces as well: every rank's loss depends on every rank's summand."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, group: torch.distributed.ProcessGroup) -> torch.Tensor:
        ctx.group = group
        total = x.clone()
        torch.distributed.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        total = grad.clone()
        torch.distributed.all_reduce(total, group=ctx.group)
        return total, None
