"""Cross entropy of a linear head, by chunks of tokens: no more than one chunk's logits ever exist.

Shapes: S tokens of a pack (this rank's, under sequence parallelism), K supervised tokens, C tokens of a chunk,
V vocabulary columns of this rank, H hidden.
"""

from typing import Any, NamedTuple

import torch
from megatron.core.tensor_parallel import (
    ColumnParallelLinear,
    copy_to_tensor_model_parallel_region,
    gather_from_sequence_parallel_region,
)
from torch.autograd.function import FunctionCtx, once_differentiable

from internvl_trainer.contract.memory import LOGITS_CHUNK


class PackLoss(NamedTuple):
    """A pack's loss: what training differentiates, and what people look at.

    `total` is the scalar sum(weight * cross entropy); `losses_K` are the cross entropies alone, detached, in nats.
    """

    total: torch.Tensor
    losses_K: torch.Tensor


def chunk_tokens(columns: int) -> int:
    """How many tokens a chunk has at this many vocabulary columns per rank; at least one."""
    return max(1, LOGITS_CHUNK // (4 * columns))


def hidden_at(hidden_S1H: torch.Tensor, head: ColumnParallelLinear, positions_K: torch.Tensor) -> torch.Tensor:
    """Hidden states [K, H] at some positions of the whole pack, the same on all ranks that share the head's columns.

    The one place where a head's input is put together. Each rank's gradient of the result is that of its own columns;
    the backward pass sums them over the tensor-parallel group, and under sequence parallelism cuts the sum again.
    """
    if head.sequence_parallel:
        hidden_S1H = gather_from_sequence_parallel_region(hidden_S1H, group=head.tp_group)
        return hidden_S1H.index_select(0, positions_K).squeeze(1)
    # Chosen first, so that only K rows travel in the backward pass.
    hidden_KH = hidden_S1H.index_select(0, positions_K).squeeze(1)
    return copy_to_tensor_model_parallel_region(hidden_KH, group=head.tp_group)


def linear_cross_entropy(
    hidden_KH: torch.Tensor,
    weight_VH: torch.Tensor,
    targets_K: torch.Tensor,
    weights_K: torch.Tensor,
    *,
    vocab_size: int,
    group: torch.distributed.ProcessGroup,
    chunk: int | None = None,
) -> PackLoss:
    """Weighted cross entropy of `hidden @ weight.T` over a vocabulary that is split over a group. Collective.

    Where gradients are wanted they are computed here, chunk by chunk, while a chunk's logits are at hand; the backward
    pass only multiplies them by what comes in. So no logits are kept and none are computed twice. A frozen head gets no
    gradient and no memory for one. Products run in the inputs' dtype, the softmax in float32; the head's gradient
    is summed over chunks in float32.

    Args:
        hidden_KH: the same on all ranks of `group`; its gradient is of this rank's columns alone (see `hidden_at`).
        weight_VH: this rank's rows of the head. Rows from `vocab_size` on, over all ranks, pad the vocabulary: they
            stay out of the softmax and get gradients of exactly zero.
        targets_K: int64, ids of the whole vocabulary.
        weights_K: float32, what each token's loss counts in the total. No gradient flows to them.
        vocab_size: true number of columns over all ranks.
        group: the tensor-parallel group, in the order of the head's rows.
        chunk: tokens per chunk; by default `chunk_tokens`.
    """
    step = chunk or chunk_tokens(weight_VH.size(0))
    differentiate = torch.is_grad_enabled()
    total, losses_K = _LinearCrossEntropy.apply(  # type: ignore[no-untyped-call]
        hidden_KH, weight_VH, targets_K, weights_K, vocab_size, group, step, differentiate
    )
    return PackLoss(total, losses_K)


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_KH: torch.Tensor,
        weight_VH: torch.Tensor,
        targets_K: torch.Tensor,
        weights_K: torch.Tensor,
        vocab_size: int,
        group: torch.distributed.ProcessGroup,
        step: int,
        differentiate: bool,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        hidden_wanted, weight_wanted = (differentiate and needed for needed in ctx.needs_input_grad[:2])
        losses_K = torch.empty_like(targets_K, dtype=torch.float32)
        grad_KH = torch.zeros_like(hidden_KH) if hidden_wanted else None
        grad_VH = torch.zeros_like(weight_VH, dtype=torch.float32) if weight_wanted else None
        for start in range(0, targets_K.numel(), step):
            rows = slice(start, start + step)
            logits_CV = torch.nn.functional.linear(hidden_KH[rows], weight_VH).float()
            softmax = _softmax_in_place(logits_CV, targets_K[rows], vocab_size, group)
            losses_K[rows] = softmax.losses_C
            if grad_KH is None and grad_VH is None:
                continue
            grad_CV = _gradient_in_place(softmax, weights_K[rows]).to(weight_VH.dtype)
            if grad_KH is not None:
                grad_KH[rows] = grad_CV @ weight_VH
            if grad_VH is not None:
                grad_VH += grad_CV.t() @ hidden_KH[rows]
        _keep(ctx, grad_KH, None if grad_VH is None else grad_VH.to(weight_VH.dtype))
        ctx.mark_non_differentiable(losses_K)
        return torch.dot(weights_K, losses_K), losses_K

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_total: torch.Tensor, _: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        grad_KH, grad_VH = ctx.saved_tensors
        return _times(grad_KH, grad_total), _times(grad_VH, grad_total), None, None, None, None, None, None


class _Softmax(NamedTuple):
    """A chunk's softmax on this rank's columns, in the memory of its logits; its targets and its losses."""

    exponentials_CV: torch.Tensor
    denominator_C: torch.Tensor
    """Sum of the exponentials over all ranks."""
    columns_C: torch.Tensor
    """Column of each target here, 0 where another rank has it."""
    is_here_C: torch.Tensor
    losses_C: torch.Tensor


def _softmax_in_place(
    logits_CV: torch.Tensor, targets_C: torch.Tensor, vocab_size: int, group: torch.distributed.ProcessGroup
) -> _Softmax:
    columns = logits_CV.size(1)
    first = columns * group.rank()
    logits_CV[:, max(0, vocab_size - first) :] = float("-inf")
    largest_C = logits_CV.amax(1)
    _reduce(largest_C, torch.distributed.ReduceOp.MAX, group)
    logits_CV.sub_(largest_C[:, None])
    is_here_C = (targets_C >= first) & (targets_C < first + columns)
    columns_C = torch.where(is_here_C, targets_C - first, 0)
    target_C = logits_CV.gather(1, columns_C[:, None]).squeeze(1)
    exponentials_CV = logits_CV.exp_()
    sums_2C = torch.stack([exponentials_CV.sum(1), torch.where(is_here_C, target_C, 0.0)])
    _reduce(sums_2C, torch.distributed.ReduceOp.SUM, group)
    denominator_C, target_C = sums_2C
    return _Softmax(exponentials_CV, denominator_C, columns_C, is_here_C, denominator_C.log() - target_C)


def _gradient_in_place(softmax: _Softmax, weights_C: torch.Tensor) -> torch.Tensor:
    """weight * (probability - 1 at the target), in the memory of the exponentials."""
    grad_CV = softmax.exponentials_CV.mul_((weights_C / softmax.denominator_C)[:, None])
    return grad_CV.scatter_add_(1, softmax.columns_C[:, None], -(weights_C * softmax.is_here_C)[:, None])


def _reduce(
    tensor: torch.Tensor, operation: torch.distributed.ReduceOp.RedOpType, group: torch.distributed.ProcessGroup
) -> None:
    if group.size() > 1:
        torch.distributed.all_reduce(tensor, op=operation, group=group)


def _keep(ctx: FunctionCtx, *gradients: torch.Tensor | None) -> None:
    # Unlike plain attributes these are freed when the backward pass has used them.
    ctx.save_for_backward(*gradients)  # type: ignore[arg-type]  # None is allowed


def _times(gradient: torch.Tensor | None, factor: torch.Tensor) -> torch.Tensor | None:
    return None if gradient is None else gradient * factor
