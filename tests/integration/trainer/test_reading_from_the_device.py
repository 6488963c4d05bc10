"""A pass over a pack never asks the device for a value: on CUDA, each question waits for all work that is queued."""

from pathlib import Path

import pytest
import torch

from internvl_trainer.contract.manifest import ParallelLayout
from tests.integration.trainer import reading_cases
from tests.integration.trainer.grid import on_grid
from tests.integration.trainer.world import job

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("recompute", ["none", "layers"])
@pytest.mark.parametrize("vision", ["tensor", "tiles"])
def test_a_pass_reads_nothing_back(recompute: str, vision: str, tmp_path: Path) -> None:
    """Between pipeline stages megatron sends shapes, which it reads; torch's kernels for CPUs read segment lengths."""
    layout = ParallelLayout(tensor=2)
    asked = job(
        tmp_path,
        tmp_path,
        layout=layout.model_dump(),
        partition={"sequence": True, "vision": vision},
        recompute={"vision": recompute, "language": recompute},
        optimization={"global_batch": 2, "drop_path": 0.3},
        attention="reference",
    )
    assert on_grid(layout, reading_cases.reads, asked) == [{}, {}]


def test_reads_would_be_seen() -> None:
    values = torch.tensor([1, 0, 2])
    with reading_cases.counted() as seen:
        values.tolist()
        values[0].item()
        values[values > 0]
        torch.repeat_interleave(values, values)
        torch.repeat_interleave(values, values, output_size=3)
    assert sum(seen.values()) >= 4
    assert set(seen) >= {"tolist", "aten._local_scalar_dense.default", "aten.repeat_interleave.Tensor"}
