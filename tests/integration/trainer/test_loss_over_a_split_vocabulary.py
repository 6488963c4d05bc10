"""Cross entropy over a vocabulary that ranks share equals torch's in one process."""

import pytest
import torch

from internvl_trainer.contract.manifest import ParallelLayout
from tests.integration.trainer import loss_cases
from tests.integration.trainer.grid import on_grid

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("tensor", [1, 2, 4])
def test_loss_and_gradients_at_any_tensor_size_with_and_without_sequence_parallelism(tensor: int) -> None:
    """300 columns are padded to 384 and 512: at four ranks the third has some padding and the last nothing else."""
    dtypes = [torch.float32, torch.bfloat16]
    per_rank = on_grid(ParallelLayout(tensor=tensor), loss_cases.compare, tensor, dtypes)
    for single, single_sp, half, half_sp in per_rank:
        for errors in (single, single_sp):
            assert max(errors) < 1e-6
        for errors in (half, half_sp):
            assert max(errors) < 2e-2
        assert {errors.padding_gradient for errors in (single, single_sp, half, half_sp)} == {0.0}
