"""The chunked, fused cross entropy is torch's own, in less memory.

Shapes: K tokens, V vocabulary columns, H hidden.
"""

from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from internvl_trainer.model.loss import PackLoss, chunk_tokens, linear_cross_entropy

pytestmark = pytest.mark.unit

ALONE = torch.distributed.ProcessGroup(0, 1)


class Case(NamedTuple):
    hidden_KH: torch.Tensor
    weight_VH: torch.Tensor
    targets_K: torch.Tensor
    weights_K: torch.Tensor


def draw(
    tokens: int, columns: int, vocab: int, *, hidden: int = 16, dtype: torch.dtype = torch.float32, seed: int = 0
) -> Case:
    generator = torch.Generator().manual_seed(seed)
    return Case(
        torch.randn(tokens, hidden, generator=generator).to(dtype).requires_grad_(),
        torch.randn(columns, hidden, generator=generator).to(dtype).requires_grad_(),
        torch.randint(vocab, (tokens,), generator=generator),
        torch.rand(tokens, generator=generator),
    )


def ours(case: Case, vocab: int, chunk: int | None = None) -> PackLoss:
    return linear_cross_entropy(*case, vocab_size=vocab, group=ALONE, chunk=chunk)


def torchs(case: Case, vocab: int) -> PackLoss:
    logits_KV = torch.nn.functional.linear(case.hidden_KH, case.weight_VH[:vocab]).float()
    losses_K = torch.nn.functional.cross_entropy(logits_KV, case.targets_K, reduction="none")
    return PackLoss((losses_K * case.weights_K).sum(), losses_K.detach())


def gradients(case: Case, total: torch.Tensor, factor: float = 1.0) -> tuple[torch.Tensor, ...]:
    return torch.autograd.grad(total * factor, (case.hidden_KH, case.weight_VH))


def is_close(one: torch.Tensor, other: torch.Tensor, tolerance: float) -> None:
    assert one.dtype == other.dtype
    scale = max(1.0, float(other.detach().abs().max())) if other.numel() else 1.0
    torch.testing.assert_close(one, other, rtol=0, atol=tolerance * scale)


@given(
    tokens=st.integers(0, 40),
    vocab=st.integers(1, 70),
    padding=st.integers(0, 9),
    chunk=st.integers(1, 45),
    factor=st.sampled_from([1.0, -0.5, 1024.0]),
)
def test_it_equals_torch_forward_and_backward_wherever_chunks_end(
    tokens: int, vocab: int, padding: int, chunk: int, factor: float
) -> None:
    case = draw(tokens, vocab + padding, vocab)
    mine, theirs = ours(case, vocab, chunk), torchs(case, vocab)
    is_close(mine.total, theirs.total, 1e-6)
    is_close(mine.losses_K, theirs.losses_K, 1e-6)
    # A gradient is a probability less one, so its rounding is relative to one however small the difference.
    tolerance = 1e-6 * max(1.0, abs(factor))
    for one, other in zip(gradients(case, mine.total, factor), gradients(case, theirs.total, factor), strict=True):
        is_close(one, other, tolerance)


@pytest.mark.parametrize("tokens", [0, 1, 63, 64, 65, 128])
def test_a_pack_with_no_supervised_token_with_one_and_with_whole_chunks(tokens: int) -> None:
    case = draw(tokens, 384, 300)
    mine, theirs = ours(case, 300, 64), torchs(case, 300)
    is_close(mine.total, theirs.total, 1e-6)
    for one, other in zip(gradients(case, mine.total), gradients(case, theirs.total), strict=True):
        is_close(one, other, 1e-6)


def test_columns_that_pad_the_vocabulary_get_a_gradient_of_exactly_zero() -> None:
    case = draw(50, 384, 300)
    with torch.no_grad():
        case.weight_VH[300:] = 1e3  # would win every softmax
    mine, theirs = ours(case, 300, 16), torchs(case, 300)
    is_close(mine.total, theirs.total, 1e-6)
    assert gradients(case, mine.total)[1][300:].abs().max() == 0


def test_bf16_is_as_close_to_fp32_as_torchs_own_bf16() -> None:
    vocab, half = 1000, draw(200, 1024, 1000, hidden=64, dtype=torch.bfloat16)
    exact = Case(*(x.detach().float().requires_grad_() for x in half[:2]), *half[2:])
    truth = gradients(exact, torchs(exact, vocab).total)
    mine, theirs = ours(half, vocab, 2), torchs(half, vocab)
    assert float(mine.total) == pytest.approx(float(torchs(exact, vocab).total), rel=2e-3)
    for one, other, true in zip(gradients(half, mine.total), gradients(half, theirs.total), truth, strict=True):
        assert one.dtype == torch.bfloat16
        my_error, their_error = ((x.float() - true).norm() / true.norm() for x in (one, other))
        assert my_error < 1e-2  # that of logits rounded to bf16
        assert my_error < 1.2 * their_error  # a hundred chunks cost no accuracy


def test_the_heads_gradient_in_bf16_does_not_lose_what_late_chunks_add() -> None:
    """Two thousand chunks push the same way: a sum kept in bf16 would stop growing at 256 times a summand."""
    case = draw(4000, 8, 8, dtype=torch.bfloat16)
    with torch.no_grad():
        case.hidden_KH.abs_()
        case.targets_K.zero_()
    is_close(
        *(gradients(case, loss(case).total)[1] for loss in (lambda c: ours(c, 8, 2), lambda c: torchs(c, 8))), 1e-2
    )


def test_extreme_logits_stay_finite_and_a_nan_stays_a_nan() -> None:
    case = draw(8, 64, 60)
    with torch.no_grad():
        case.hidden_KH.mul_(1e4)
    mine = ours(case, 60, 3)
    assert torch.isfinite(mine.losses_K).all()
    assert all(torch.isfinite(gradient).all() for gradient in gradients(case, mine.total))
    with torch.no_grad():
        case.hidden_KH[4, 0] = float("nan")
    assert torch.isnan(ours(case, 60, 3).losses_K).nonzero().flatten().tolist() == [4]


class Sizes(TorchDispatchMode):
    """Writes down the shape of everything that torch makes."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[torch.Size] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.made += [leaf.shape for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        return result


def test_no_tensor_is_as_large_as_the_logits_of_two_chunks() -> None:
    tokens, columns, chunk = 512, 2048, 32
    case = draw(tokens, columns, columns, hidden=8)
    with Sizes() as fused:
        gradients(case, ours(case, columns, chunk).total)
    assert max(shape.numel() for shape in fused.made) == chunk * columns
    with Sizes() as plain:
        gradients(case, torchs(case, columns).total)
    assert max(shape.numel() for shape in plain.made) == tokens * columns


def kept(case: Case) -> list[torch.Size]:
    """Shapes of what is kept for the backward pass."""
    shapes: list[torch.Size] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        shapes.append(tensor.shape)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        ours(case, 300, 16)
    return shapes


def test_a_frozen_head_costs_no_gradient_and_no_memory_for_one() -> None:
    case = draw(100, 384, 300)
    assert sorted(kept(case)) == [(100, 16), (384, 16)]
    case.weight_VH.requires_grad_(False)
    with Sizes() as made:
        (gradient,) = torch.autograd.grad(ours(case, 300, 16).total, case.hidden_KH)
    assert (384, 16) not in made.made
    is_close(gradient, torch.autograd.grad(torchs(case, 300).total, case.hidden_KH)[0], 1e-6)
    assert kept(case) == [(100, 16)]


def test_evaluation_computes_no_gradients() -> None:
    case = draw(100, 384, 300)
    with torch.no_grad(), Sizes() as made:
        loss = ours(case, 300, 16)
    assert not loss.total.requires_grad
    assert (384, 16) not in made.made
    assert kept(Case(*(x.detach() for x in case))) == []


def test_losses_of_single_tokens_are_for_reporting_alone() -> None:
    assert not ours(draw(10, 64, 60), 60).losses_K.requires_grad


def test_a_chunk_of_the_largest_vocabulary_on_one_rank_is_256_mb_and_tensor_parallelism_lengthens_it() -> None:
    assert 4 * 151_674 * chunk_tokens(151_674) == pytest.approx(256 * 2**20, rel=0.005)
    assert chunk_tokens(151_674 // 8) == pytest.approx(8 * chunk_tokens(151_674), rel=0.01)
    assert chunk_tokens(10**9) == 1
