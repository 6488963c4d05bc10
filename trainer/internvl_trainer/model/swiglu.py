"""SwiGLU that keeps nothing for its backward pass but its input.

Shapes: F hidden columns of the MLP on this rank; gate columns come before up columns.
Source: Shazeer 2020 (arXiv:2002.05202).
"""

from typing import Any

import torch
from megatron.core.transformer.transformer_config import TransformerConfig
from torch.autograd.function import once_differentiable
from torch.nn.functional import silu


class SwiGLU(torch.nn.Module):
    """silu(gate) * up, in the form that megatron.core's MLP takes as its activation module.

    The MLP's own keeps five hidden widths per token: its input and three intermediates beside the result. megatron.core
    also has one that keeps the input alone, but compiles it on CUDA, which takes a C compiler at run time.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()

    def forward(self, x_2F: torch.Tensor, /) -> torch.Tensor:
        """[..., 2F] -> [..., F] in the same dtype."""
        out_F: torch.Tensor = _SwiGLU.apply(x_2F)  # type: ignore[no-untyped-call]
        return out_F


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_2F: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x_2F)
        gate_F, up_F = x_2F.chunk(2, dim=-1)
        return silu(gate_F).mul_(up_F)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_F: torch.Tensor) -> torch.Tensor:
        (x_2F,) = ctx.saved_tensors
        gate_F, up_F = x_2F.chunk(2, dim=-1)
        grad_2F = torch.empty_like(x_2F)
        grad_gate_F, grad_up_F = grad_2F.chunk(2, dim=-1)
        torch.mul(silu(gate_F), grad_F, out=grad_up_F)
        torch.ops.aten.silu_backward.grad_input(grad_F * up_F, gate_F, grad_input=grad_gate_F)
        return grad_2F
