"""The fused cross entropy over a vocabulary that is split over ranks. Place first.

Shapes: S tokens, K supervised tokens, V vocabulary columns of this rank, H hidden.
"""

from types import SimpleNamespace
from typing import NamedTuple, cast

import torch
from megatron.core import parallel_state
from megatron.core.tensor_parallel import ColumnParallelLinear

from internvl_trainer.engine.parallel import Place
from internvl_trainer.model.config import padded_vocab_size
from internvl_trainer.model.loss import hidden_at, linear_cross_entropy

TOKENS, VOCAB, HIDDEN = 64, 300, 24


class Errors(NamedTuple):
    """Largest distances from torch's own cross entropy in float64 in one process, relative to the largest value."""

    total: float
    losses: float
    hidden_gradient: float
    weight_gradient: float
    padding_gradient: float


def compare(place: Place, tensor: int, dtypes: list[torch.dtype]) -> list[Errors]:
    """For each dtype, without and with sequence parallelism."""
    return [_compare(tensor, dtype, sequence) for dtype in dtypes for sequence in (False, True)]


def _compare(tensor: int, dtype: torch.dtype, sequence: bool) -> Errors:
    generator = torch.Generator().manual_seed(5)
    hidden_S1H = torch.randn(TOKENS, 1, HIDDEN, generator=generator).to(dtype)
    rows = padded_vocab_size(VOCAB, tensor)
    weight_VH = torch.randn(rows, HIDDEN, generator=generator).to(dtype)
    positions_K = torch.randperm(TOKENS, generator=generator)[:37].sort().values
    targets_K = torch.randint(VOCAB, (37,), generator=generator)
    weights_K = torch.rand(37, generator=generator)
    exact = _exact(hidden_S1H, weight_VH[:VOCAB], positions_K, targets_K, weights_K)

    group = parallel_state.get_tensor_model_parallel_group()
    head = cast(ColumnParallelLinear, SimpleNamespace(sequence_parallel=sequence, tp_group=group))
    mine = hidden_S1H.chunk(tensor)[group.rank()] if sequence else hidden_S1H
    mine = mine.clone().requires_grad_()
    my_weight_VH = weight_VH.chunk(tensor)[group.rank()].clone().requires_grad_()
    loss = linear_cross_entropy(
        hidden_at(mine, head, positions_K),
        my_weight_VH,
        targets_K,
        weights_K,
        vocab_size=VOCAB,
        group=group,
        chunk=10,
    )
    loss.total.backward()
    hidden_grad_S1H = exact.hidden_grad_S1H.chunk(tensor)[group.rank()] if sequence else exact.hidden_grad_S1H
    weight_grad_VH = torch.cat([exact.weight_grad_VH, torch.zeros(rows - VOCAB, HIDDEN, dtype=torch.float64)])
    assert mine.grad is not None
    assert my_weight_VH.grad is not None
    first = group.rank() * my_weight_VH.size(0)
    padding = my_weight_VH.grad[max(0, VOCAB - first) :]
    return Errors(
        _distance(loss.total, exact.total),
        _distance(loss.losses_K, exact.losses_K),
        _distance(mine.grad, hidden_grad_S1H),
        _distance(my_weight_VH.grad, weight_grad_VH.chunk(tensor)[group.rank()]),
        float(padding.abs().max()) if padding.numel() else 0.0,
    )


class _Exact(NamedTuple):
    total: torch.Tensor
    losses_K: torch.Tensor
    hidden_grad_S1H: torch.Tensor
    weight_grad_VH: torch.Tensor


def _exact(
    hidden_S1H: torch.Tensor,
    weight_VH: torch.Tensor,
    positions_K: torch.Tensor,
    targets_K: torch.Tensor,
    weights_K: torch.Tensor,
) -> _Exact:
    hidden_S1H, weight_VH = (x.double().requires_grad_() for x in (hidden_S1H, weight_VH))
    logits_KV = torch.nn.functional.linear(hidden_S1H[positions_K, 0], weight_VH)
    losses_K = torch.nn.functional.cross_entropy(logits_KV, targets_K, reduction="none")
    total = (losses_K * weights_K).sum()
    return _Exact(total, losses_K, *torch.autograd.grad(total, (hidden_S1H, weight_VH)))


def _distance(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    ours, theirs = ours.detach().double(), theirs.detach().double()
    return float((ours - theirs).abs().max() / max(1.0, theirs.abs().max()))
