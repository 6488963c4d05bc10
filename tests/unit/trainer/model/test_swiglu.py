"""SwiGLU against autograd's own, and what it keeps. Shapes: S tokens, F hidden columns."""

import pytest
import torch
from megatron.core.fusions.fused_bias_swiglu import swiglu, swiglu_back
from torch.nn.functional import silu

from internvl_trainer.contract.catalog import MODELS
from internvl_trainer.contract.manifest import ParallelLayout
from internvl_trainer.model.config import model_configs
from internvl_trainer.model.swiglu import SwiGLU

pytestmark = pytest.mark.unit

TOKENS, WIDTH = 37, 24


@pytest.fixture
def activation() -> SwiGLU:
    return SwiGLU(model_configs(MODELS["tiny-8b-like"], ParallelLayout()).language)


def drawn(*shape: int) -> torch.Tensor:
    return 3 * torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape)), dtype=torch.float64)


def plain(x_S12F: torch.Tensor) -> torch.Tensor:
    gate_S1F, up_S1F = x_S12F.chunk(2, -1)
    return silu(gate_S1F) * up_S1F


def test_its_gradient_is_the_numerical_one(activation: SwiGLU) -> None:
    assert torch.autograd.gradcheck(activation, drawn(3, 1, 8).requires_grad_())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_values_are_those_of_separate_operations_to_the_bit(activation: SwiGLU, dtype: torch.dtype) -> None:
    x_S12F = drawn(TOKENS, 1, 2 * WIDTH).to(dtype)
    assert activation(x_S12F).equal(plain(x_S12F))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_are_those_of_autograd_to_the_bit(activation: SwiGLU, dtype: torch.dtype) -> None:
    ours, theirs = (drawn(TOKENS, 1, 2 * WIDTH).to(dtype).requires_grad_() for _ in range(2))
    grad_S1F = drawn(TOKENS, 1, WIDTH).to(dtype)
    activation(ours).backward(grad_S1F)
    plain(theirs).backward(grad_S1F)
    assert ours.grad is not None
    assert theirs.grad is not None
    assert ours.grad.equal(theirs.grad)


@torch.compiler.set_stance("force_eager")  # what it computes is asked for, not a C compiler
def test_it_agrees_with_the_one_that_megatron_compiles(activation: SwiGLU) -> None:
    x_S2F, grad_SF = drawn(TOKENS, 2 * WIDTH).requires_grad_(), drawn(TOKENS, WIDTH)
    out_SF = activation(x_S2F)
    out_SF.backward(grad_SF)
    torch.testing.assert_close(out_SF, swiglu(x_S2F))
    torch.testing.assert_close(x_S2F.grad, swiglu_back(grad_SF, x_S2F))


def test_it_keeps_its_input_alone(activation: SwiGLU) -> None:
    kept: list[torch.Tensor] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor)
        return tensor

    x_S12F = drawn(TOKENS, 1, 2 * WIDTH).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        activation(x_S12F)
    assert [tensor.data_ptr() for tensor in kept] == [x_S12F.data_ptr()]
