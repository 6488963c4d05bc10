"""The memory estimate is of what training really holds."""

from pathlib import Path

import pytest

from internvl_trainer.contract.base import Component
from internvl_trainer.contract.manifest import ParallelLayout
from internvl_trainer.contract.memory import estimate_memory, language_layer_elements, vision_layer_elements
from tests.integration.trainer import memory_cases
from tests.integration.trainer.grid import on_grid
from tests.integration.trainer.world import job

pytestmark = pytest.mark.integration

GRID = ParallelLayout(tensor=2, pipeline=2)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("trainable", [(Component.PROJECTOR,), tuple(Component)], ids=["stage-1", "stage-2"])
def test_weights_gradients_and_optimizer_state_are_what_each_rank_holds(
    precision: str, trainable: tuple[Component, ...], tmp_path: Path
) -> None:
    asked = job(
        tmp_path,
        tmp_path,
        layout=GRID.model_dump(),
        trainable=trainable,
        partition={"pipeline_layers": (1, 1)},
        optimization={"precision": precision},
    )
    ranks = on_grid(GRID, memory_cases.held, asked)
    first, last = (stage.parts for stage in estimate_memory(asked))
    # Ranks of the first stage come first.
    for rank, stage in zip(ranks, (first, first, last, last), strict=True):
        assert rank == (stage.weights, stage.gradients, stage.optimizer)


def test_a_layer_keeps_what_the_estimate_counts(tmp_path: Path) -> None:
    """On CPU, RMSNorm keeps two more tensors, joined segments one more, attention its sums; CUDA kernels do not."""
    asked = job(tmp_path, tmp_path)
    (layers,) = on_grid(ParallelLayout(), memory_cases.kept, asked)
    language = asked.model.language
    joined = language.heads * language.head_dim
    on_cpu = 2 * language.hidden + joined
    assert layers.vision == pytest.approx(vision_layer_elements(asked.model.vision), rel=0.01)
    assert layers.language == pytest.approx(language_layer_elements(language) + on_cpu, rel=0.01)
